"""exportkit: TensorFlow graphs to SavedModel versions, from configuration alone. Importing it imports no TensorFlow."""
