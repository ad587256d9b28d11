"""Deployments as YAML: for Docker Compose and for Kubernetes."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import yaml

from exportkit.deployment.fleet import directory_in
from exportkit.deployment.settings import AVAILABLE, CONFIG, GRPC, REST, Deployment

_PROBE = ["bash", f"{CONFIG}/{AVAILABLE}"]
_SERVER = "tensorflow_model_server"
_LOADING = 600  # seconds that the first load of all models may take
_LABEL = "app.kubernetes.io"


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as blocks, and no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _represent_text)


def _yaml(documents: Sequence[Mapping[str, Any]], head: str) -> str:
    comment = "".join(f"# {line}\n" for line in head.splitlines())
    return comment + yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def _image(deployment: Deployment) -> str:
    return (
        f"Written by exportkit. Pin the image to a tag; its TensorFlow should not be older than {deployment.fleet.tensorflow}."
    )


def compose(deployment: Deployment) -> dict[str, str]:
    """Return a ``compose.yaml`` (Compose Specification) and the files in the directory that it mounts."""
    mounts = {"./config": CONFIG} | {str(model.base): directory_in(model) for model in deployment.fleet.models}
    service = {
        "image": deployment.image,
        "init": True,  # the server would ignore SIGTERM as process 1
        "entrypoint": [_SERVER],
        "command": deployment.flags(),
        "ports": [f"127.0.0.1:{port}:{port}" for port in (GRPC, REST)],
        "volumes": [
            {"type": "bind", "source": source, "target": target, "read_only": True, "bind": {"create_host_path": False}}
            for source, target in mounts.items()
        ],
        "healthcheck": {
            "test": ["CMD", *_PROBE],
            "interval": "10s",
            "timeout": "5s",
            "retries": 3,
            "start_period": f"{_LOADING}s",
        },
        "deploy": {
            "resources": {
                "limits": {"memory": f"{deployment.memory}M"},
                "reservations": {"cpus": "1", "memory": f"{deployment.memory}M"},
            }
        },
        "restart": "unless-stopped",
        "security_opt": ["no-new-privileges:true"],
    }
    head = f"{_image(deployment)}\ndocker compose -f compose.yaml up --wait"
    document = {"name": deployment.name, "services": {"serving": _each_text(service, lambda text: text.replace("$", "$$"))}}
    return {"compose.yaml": _yaml([document], head)} | {f"config/{name}": text for name, text in deployment.files().items()}


def _each_text(value: Any, change: Callable[[str], str]) -> Any:
    """Return plain data with each text changed, here escaped from interpolation."""
    if isinstance(value, dict):
        return {key: _each_text(one, change) for key, one in value.items()}
    if isinstance(value, list):
        return [_each_text(one, change) for one in value]
    return change(value) if isinstance(value, str) else value


def kubernetes(deployment: Deployment) -> dict[str, str]:
    """Return a ``kubernetes.yaml``: a ConfigMap, a PersistentVolumeClaim for the versions, a Deployment and a Service."""
    name = deployment.name
    own = {f"{_LABEL}/name": "tensorflow-serving", f"{_LABEL}/instance": name}

    def one(version: str, kind: str, suffix: str = "", **content: Any) -> dict[str, Any]:
        return {"apiVersion": version, "kind": kind, "metadata": {"name": f"{name}{suffix}", "labels": own}, **content}

    claim = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": f"{deployment.storage}Gi"}}}
    pod = {
        "metadata": {"labels": own},
        "spec": {
            "containers": [_container(deployment)],
            "volumes": [
                {"name": "config", "configMap": {"name": f"{name}-config"}},
                {"name": "models", "persistentVolumeClaim": {"claimName": f"{name}-models", "readOnly": True}},
            ],
            "terminationGracePeriodSeconds": 20,  # in which requests that were begun are answered
        },
    }
    strategy = {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}
    ports = [{"name": label, "port": port, "targetPort": label} for label, port in _PORTS.items()]
    documents = [
        one("v1", "ConfigMap", "-config", data=deployment.files()),
        one("v1", "PersistentVolumeClaim", "-models", spec=claim),
        one(
            "apps/v1",
            "Deployment",
            spec={"replicas": 1, "selector": {"matchLabels": own}, "strategy": strategy, "template": pod},
        ),
        one("v1", "Service", spec={"selector": own, "ports": ports}),
    ]
    copies = "\n".join(f"  {model.base} as {directory_in(model, '')[1:]}" for model in deployment.fleet.models)
    head = f"{_image(deployment)}\nCopy the versions to the volume {name}-models before the server starts:\n{copies}"
    return {"kubernetes.yaml": _yaml(documents, head)}


_PORTS = {"grpc": GRPC, "rest": REST}


def _container(deployment: Deployment) -> dict[str, Any]:
    available = {"exec": {"command": _PROBE}, "timeoutSeconds": 5}
    first = directory_in(deployment.fleet.models[0], "/v1/models")
    memory = f"{deployment.memory}Mi"
    return {
        "name": "serving",
        "image": deployment.image,
        "command": [_SERVER],
        "args": [flag.replace("$(", "$$(") for flag in deployment.flags()],
        "ports": [{"name": label, "containerPort": port} for label, port in _PORTS.items()],
        "startupProbe": {**available, "periodSeconds": 5, "failureThreshold": _LOADING // 5},
        "readinessProbe": {**available, "periodSeconds": 10},
        "livenessProbe": {"httpGet": {"path": first, "port": "rest"}, "periodSeconds": 20, "timeoutSeconds": 5},
        "resources": {"requests": {"cpu": "1", "memory": memory}, "limits": {"memory": memory}},
        "securityContext": {"allowPrivilegeEscalation": False},
        "volumeMounts": [
            {"name": "config", "mountPath": CONFIG, "readOnly": True},
            {"name": "models", "mountPath": "/models", "readOnly": True},
        ],
    }


TARGETS: Mapping[str, Callable[[Deployment], dict[str, str]]] = {"compose": compose, "kubernetes": kubernetes}
