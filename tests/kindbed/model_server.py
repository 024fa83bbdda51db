"""A real server of a model's file in the cluster: HTTPS with an authority of its own, HTTP as S3's interface is.

An operator and workers trust and sign by their environment, as with AWS' own admission: a policy adds it to pods.
"""

import hashlib
import shutil
from pathlib import Path
from typing import Final

from kindbed.admission import add_to_workers
from kindbed.cluster import NAMESPACE, Cluster, Manifest, run

_NAME: Final = "models"
_AUTHORITY: Final = "model-authority"
_MOUNT: Final = "/etc/model-authority"
_FOLDER: Final = "/var/lib/tierflow-e2e-models"
_SERVER: Final = """
import functools, http.server, ssl, threading

handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory="/models")
plain = http.server.ThreadingHTTPServer(("", 8080), handler)
secure = http.server.ThreadingHTTPServer(("", 8443), handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("/models/tls/server.pem")
secure.socket = context.wrap_socket(secure.socket, server_side=True)
threading.Thread(target=plain.serve_forever).start()
secure.serve_forever()
"""
_SIGNED: Final = {
    "AWS_ACCESS_KEY_ID": "of-the-tests",
    "AWS_SECRET_ACCESS_KEY": "of-the-tests",
    "AWS_DEFAULT_REGION": "eu-central-1",
    "AWS_ENDPOINT_URL": f"http://{_NAME}.{_NAME}.svc:8080",
    "SSL_CERT_FILE": f"{_MOUNT}/authority.pem",
}


def serve(cluster: Cluster, model: Path, image: str, folder: Path) -> dict[str, str]:
    """Serves a model's file; returns its addresses by scheme.

    Args:
        cluster: Where.
        model: The file.
        image: Any with Python, on the control plane's node.
        folder: Where certificates are made.
    """
    authority = _certificates(folder)
    files = folder / "files"
    (files / "bucket").mkdir(parents=True)
    shutil.copy(model, files / "bucket" / model.name)
    shutil.copytree(folder / "tls", files / "tls")
    run("docker", "exec", cluster.control_plane, "mkdir", "-p", _FOLDER)
    run("docker", "cp", f"{files}/.", f"{cluster.control_plane}:{_FOLDER}")
    run("docker", "exec", cluster.control_plane, "chmod", "-R", "a+rX", _FOLDER)
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": _NAME}})
    cluster.apply(*_server(cluster, image), _trust(authority), namespace=_NAME)
    cluster.apply(_trust(authority), namespace=NAMESPACE)
    add_to_workers(cluster, "models", _NAME, _SIGNED, mount=(_AUTHORITY, _MOUNT))
    cluster.kubectl("wait", "pod/server", "-n", _NAME, "--for=condition=Ready", "--timeout=60s")
    host = f"{_NAME}.{_NAME}.svc"
    return {
        "https": f"https://{host}:8443/bucket/{model.name}",
        "http": f"http://{host}:8080/bucket/{model.name}",
        "s3": f"s3://bucket/{model.name}",
    }


def operator_values(folder: Path) -> Manifest:
    """Values of the chart with which the operator trusts the server of `serve` with this folder, and signs for it."""
    authority = hashlib.sha256((folder / "tls" / "authority.pem").read_bytes()).hexdigest()
    return {
        "podAnnotations": {"authority": authority},  # another authority is another pod
        "extraEnv": [{"name": name, "value": value} for name, value in _SIGNED.items()],
        "extraVolumes": [{"name": _AUTHORITY, "configMap": {"name": _AUTHORITY}}],
        "extraVolumeMounts": [{"name": _AUTHORITY, "mountPath": _MOUNT, "readOnly": True}],
    }


def _certificates(folder: Path) -> str:
    """Makes an authority and the server's certificate; returns the authority's."""
    tls = folder / "tls"
    tls.mkdir(parents=True)
    openssl = ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2")
    authority, key, server = tls / "authority.pem", tls / "authority.key", tls / "server.pem"
    run(*openssl, "-subj", "/CN=authority of the tests", "-keyout", str(key), "-out", str(authority))
    run(
        *openssl, "-subj", f"/CN={_NAME}", "-addext", f"subjectAltName=DNS:{_NAME}.{_NAME}.svc",
        "-addext", "basicConstraints=critical,CA:FALSE", "-CA", str(authority), "-CAkey", str(key),
        "-keyout", str(server), "-out", str(tls / "certificate.pem"),
    )  # fmt: skip
    server.write_text(server.read_text() + (tls / "certificate.pem").read_text())
    key.unlink()
    return authority.read_text()


def _trust(authority: str) -> Manifest:
    metadata = {"name": _AUTHORITY}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"authority.pem": authority}}


def _server(cluster: Cluster, image: str) -> tuple[Manifest, Manifest]:
    pod: Manifest = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "server", "labels": {"app": "server"}},
        "spec": {
            "nodeName": cluster.control_plane,
            "containers": [
                {
                    "name": "server",
                    "image": image,
                    "command": ["python", "-c", _SERVER],
                    "volumeMounts": [{"name": "models", "mountPath": "/models", "readOnly": True}],
                    "readinessProbe": {"tcpSocket": {"port": 8443}, "periodSeconds": 1},
                }
            ],
            "volumes": [{"name": "models", "hostPath": {"path": _FOLDER}}],
        },
    }
    ports = [{"name": "http", "port": 8080}, {"name": "https", "port": 8443}]
    service: Manifest = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": _NAME},
        "spec": {"selector": {"app": "server"}, "ports": ports},
    }
    return pod, service
