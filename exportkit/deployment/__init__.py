"""Deployment files for the image ``tensorflow/serving``: Docker Compose and Kubernetes.

The rules of models.config, labels, tags, polling and batching are those of TensorFlow Serving's server_core.cc,
file_system_storage_path_source.cc and bundle_factory_util.cc.
"""
