"""JSON schemas of those parts of the Compose Specification and of Kubernetes' API that deployments are written in.

They are strict: a field that is not here is refused, so that a misspelt one is found. Sources: the Compose file reference
(docs.docker.com/reference/compose-file) and the Kubernetes API reference (apps/v1 Deployment, v1 ConfigMap,
PersistentVolumeClaim, Service).
"""

TEXT = {"type": "string"}
FLAG = {"type": "boolean"}
NUMBER = {"type": "integer", "minimum": 1}
DURATION = {"type": "string", "pattern": "^([0-9]+(us|ms|s|m|h))+$"}
LABEL = {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"}  # of DNS: RFC 1123
QUANTITY = {"type": "string", "pattern": "^[0-9]+(m|Ki|Mi|Gi|Ti)?$"}
PATH = {"type": "string", "pattern": "^/[^:]*$"}


def record(required="", **fields):
    return {"type": "object", "properties": fields, "required": required.split(), "additionalProperties": False}


def each(item, least=1):
    return {"type": "array", "items": item, "minItems": least}


def mapping(value):
    return {"type": "object", "additionalProperties": value}


def among(*values):
    return {"enum": list(values)}


COMPOSE = record(
    "name services",
    name={"type": "string", "pattern": "^[a-z0-9][a-z0-9_-]*$"},
    services=mapping(
        record(
            "image",
            image=TEXT,
            init=FLAG,
            entrypoint=each(TEXT),
            command=each(TEXT),
            ports=each({"type": "string", "pattern": r"^[0-9.]+:[0-9]+:[0-9]+$"}),
            volumes=each(
                record(
                    "type target",
                    type=among("bind", "volume", "tmpfs", "cluster", "npipe", "image"),
                    source=TEXT,
                    target=PATH,
                    read_only=FLAG,
                    bind=record(create_host_path=FLAG),
                )
            ),
            healthcheck=record(
                test=each(TEXT),
                interval=DURATION,
                timeout=DURATION,
                retries=NUMBER,
                start_period=DURATION,
                start_interval=DURATION,
            ),
            deploy=record(
                resources=record(
                    limits=record(cpus=TEXT, memory={"type": "string", "pattern": "^[0-9]+[bkmgBKMG]$"}),
                    reservations=record(cpus=TEXT, memory={"type": "string", "pattern": "^[0-9]+[bkmgBKMG]$"}),
                )
            ),
            restart=among("no", "always", "on-failure", "unless-stopped"),
            security_opt=each(TEXT),
        )
    ),
)

METADATA = record(
    "name", name=LABEL, labels=mapping({"type": "string", "pattern": "^[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$"})
)
PROBE = {
    **record(
        exec=record("command", command=each(TEXT)),
        httpGet=record("port", path=PATH, port={"type": ["string", "integer"]}),
        initialDelaySeconds=NUMBER,
        periodSeconds=NUMBER,
        timeoutSeconds=NUMBER,
        failureThreshold=NUMBER,
    ),
    "oneOf": [{"required": ["exec"]}, {"required": ["httpGet"]}],
}
PORT_NAME = {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]{0,13}[a-z0-9])?$"}
CONTAINER = record(
    "name image",
    name=LABEL,
    image=TEXT,
    command=each(TEXT),
    args=each(TEXT),
    ports=each(record("containerPort", name=PORT_NAME, containerPort={"type": "integer", "minimum": 1, "maximum": 65535})),
    startupProbe=PROBE,
    readinessProbe=PROBE,
    livenessProbe=PROBE,
    resources=record(requests=record(cpu=QUANTITY, memory=QUANTITY), limits=record(cpu=QUANTITY, memory=QUANTITY)),
    securityContext=record(allowPrivilegeEscalation=FLAG),
    volumeMounts=each(record("name mountPath", name=LABEL, mountPath=PATH, readOnly=FLAG)),
)
POD = record(
    "containers",
    containers=each(CONTAINER),
    volumes=each(
        {
            **record(
                "name",
                name=LABEL,
                configMap=record("name", name=LABEL),
                persistentVolumeClaim=record("claimName", claimName=LABEL, readOnly=FLAG),
            ),
            "minProperties": 2,
            "maxProperties": 2,
        }
    ),
    terminationGracePeriodSeconds=NUMBER,
)


def kind(version, name, required, **fields):
    return record(
        f"apiVersion kind metadata {required}", apiVersion=among(version), kind=among(name), metadata=METADATA, **fields
    )


ACCESS = among("ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod")
KUBERNETES = {
    "ConfigMap": kind("v1", "ConfigMap", "data", data=mapping(TEXT)),
    "PersistentVolumeClaim": kind(
        "v1",
        "PersistentVolumeClaim",
        "spec",
        spec=record(
            "accessModes resources", accessModes=each(ACCESS), resources=record("requests", requests=record(storage=QUANTITY))
        ),
    ),
    "Deployment": kind(
        "apps/v1",
        "Deployment",
        "spec",
        spec=record(
            "selector template",
            replicas=NUMBER,
            selector=record("matchLabels", matchLabels=mapping(TEXT)),
            strategy=record(
                "type",
                type=among("RollingUpdate", "Recreate"),
                rollingUpdate=record(maxUnavailable={"type": "integer"}, maxSurge={"type": "integer"}),
            ),
            template=record("metadata spec", metadata=record(labels=mapping(TEXT)), spec=POD),
        ),
    ),
    "Service": kind(
        "v1",
        "Service",
        "spec",
        spec=record(
            "selector ports",
            selector=mapping(TEXT),
            ports=each(record("port", name=PORT_NAME, port=NUMBER, targetPort={"type": ["string", "integer"]})),
        ),
    ),
}
