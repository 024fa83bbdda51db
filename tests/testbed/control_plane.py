"""A real control plane on loopback: etcd, API server, controller manager and scheduler; no nodes and no kubelets."""

import json
import shutil
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import urllib3

from testbed.binaries import CONTROL_PLANE, ensure
from testbed.process import Server, free_ports, wait_for
from testbed.rest import ApiServer

_ADMIN_TOKEN: Final = "cluster-admin-of-the-test"
_STOP_SECONDS: Final = 5.0
_ERROR_MARKS: Final = ("E", "F", "{", "p")
"""How lines begin that tell of an error: klog's levels, etcd's warnings, a panic."""
_SHOWN_ERRORS: Final = 10
# Nodes of tests have no kubelet that renews its lease: nobody may find them dead.
_CONTROLLERS: Final = "*,-node-lifecycle-controller"


class ControlPlane:
    """A control plane with RBAC, in a folder of its own, on free ports.

    Args:
        folder: Where its state, certificates and logs go; it has to exist.

    `start()` runs etcd and the API server; `start_controllers()` the controller manager and the scheduler, best after
    the custom resources are defined: the garbage collector looks for new kinds only every 30 seconds.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.kubeconfig = folder / "admin.kubeconfig"
        self.token = _ADMIN_TOKEN
        self._binaries = ensure(*CONTROL_PLANE)
        self._etcd_port, self._etcd_peer_port, self._port = free_ports(3)
        self.url = f"https://127.0.0.1:{self._port}"
        self.etcd_url = f"http://127.0.0.1:{self._etcd_port}"
        self._servers: dict[str, Server] = {}
        self._api: ApiServer | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def certificate_authority(self) -> Path:
        """The file that the API server's certificate is checked with; the server writes it at its first start."""
        return self.folder / "certificates" / "apiserver.crt"

    @property
    def api(self) -> ApiServer:
        """A connection as cluster administrator."""
        if self._api is None:
            self._api = ApiServer(self.url, self.certificate_authority, self.token)
        return self._api

    def start(self) -> None:
        """Starts etcd and the API server, and waits until it is ready."""
        (self.folder / "tokens.csv").write_text(f"{self.token},admin,admin,system:masters\n")
        self._run(
            "etcd",
            f"--data-dir={self.folder / 'etcd'}",
            f"--listen-client-urls={self.etcd_url}",
            f"--advertise-client-urls={self.etcd_url}",
            f"--listen-peer-urls=http://127.0.0.1:{self._etcd_peer_port}",
            f"--initial-advertise-peer-urls=http://127.0.0.1:{self._etcd_peer_port}",
            f"--initial-cluster=default=http://127.0.0.1:{self._etcd_peer_port}",
            "--unsafe-no-fsync",
            "--log-level=warn",
        )
        self._start_api_server()
        self._write_kubeconfig(self.kubeconfig, self.token)

    def start_controllers(self) -> None:
        """Starts the controller manager and the scheduler."""
        common = (
            f"--kubeconfig={self.kubeconfig}",
            "--leader-elect=false",
            "--kube-api-qps=500",
            "--kube-api-burst=1000",
        )
        self._run(
            "kube-controller-manager",
            *common,
            "--secure-port=0",
            f"--controllers={_CONTROLLERS}",
            f"--service-account-private-key-file={self._private_key}",
            f"--root-ca-file={self.certificate_authority}",
        )
        self._run("kube-scheduler", *common, "--secure-port=0")

    def define(self, definition: str) -> None:
        """Applies a CustomResourceDefinition, and waits until its resources are served and found by their short names.

        Args:
            definition: Its YAML.
        """
        name = self.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", "-o", "name", given=definition)
        self.kubectl("wait", "--for=condition=Established", name.strip(), "--timeout=60s")
        names = json.loads(self.kubectl("get", name.strip(), "-o", "json"))["spec"]

        def is_served() -> bool:
            # kubectl keeps what it discovered, and doesn't look again for a short name that it doesn't know.
            shutil.rmtree(self.folder / "kubectl-cache", ignore_errors=True)
            listed = self.kubectl("api-resources", f"--api-group={names['group']}", "-o", "name", check=False)
            return names["names"]["plural"] in listed

        wait_for(f"{name.strip()} to be served", is_served)

    def stop_api_server(self, *, kill: bool = False) -> None:
        """Ends the API server, at once if `kill`; etcd and the controllers stay."""
        server = self._servers.pop("kube-apiserver")
        if kill:
            server.kill()
        else:
            server.stop(seconds=_STOP_SECONDS)

    def restart_api_server(self, *, kill: bool = False) -> None:
        """Ends the API server and starts another on the same port and state; the controllers stay."""
        self.stop_api_server(kill=kill)
        self.start_api_server()

    def start_api_server(self) -> None:
        """Starts the API server again."""
        self._start_api_server()

    def forget_history(self) -> None:
        """Compacts etcd up to its present revision, so that every older resource version is gone (410)."""
        present = self._ask_etcd("/v3/kv/range", {"key": "AA=="})["header"]["revision"]
        self._ask_etcd("/v3/kv/compaction", {"revision": present, "physical": True})

    def kubectl(self, *arguments: str, given: str | None = None, check: bool = True) -> str:
        """Runs kubectl as cluster administrator.

        Args:
            arguments: Of kubectl.
            given: Its standard input.
            check: Whether to raise where it fails; else what it says on stderr is part of the answer.

        Raises:
            RuntimeError: with what it said on stderr.
        """
        command = [str(self._binaries["kubectl"]), f"--kubeconfig={self.kubeconfig}", *arguments]
        command.append(f"--cache-dir={self.folder / 'kubectl-cache'}")  # another run's ports may come again
        done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
        if check and done.returncode:
            raise RuntimeError(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout if check else done.stdout + done.stderr

    def kubeconfig_for(self, namespace: str, service_account: str, seconds: int = 3600) -> Path:
        """A kubeconfig with a token of that ServiceAccount, which has to exist."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{service_account}/token"
        request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest"}
        answer = self.api.create(path, {**request, "spec": {"expirationSeconds": seconds}})
        target = self.folder / f"{namespace}-{service_account}.kubeconfig"
        self._write_kubeconfig(target, answer["status"]["token"])
        return target

    def stop(self) -> None:
        """Ends all servers, those first that need the others."""
        for server in reversed(list(self._servers.values())):
            server.kill()
        self._servers.clear()

    def logs(self) -> str:
        """The last errors in each server's log, for a test that failed."""
        found = []
        for server in self._servers.values():
            errors = [line for line in server.last_words(1000).splitlines() if line[:1] in _ERROR_MARKS]
            found += [f"--- {server.name}: {server.log}", *errors[-_SHOWN_ERRORS:]]
        return "\n".join(found)

    @property
    def _private_key(self) -> Path:
        # The API server makes it for its own certificate; it signs tokens as well, so that nothing here must make keys.
        return self.folder / "certificates" / "apiserver.key"

    def _start_api_server(self) -> None:
        server = self._run(
            "kube-apiserver",
            f"--etcd-servers={self.etcd_url}",
            "--bind-address=127.0.0.1",
            f"--secure-port={self._port}",
            f"--cert-dir={self.folder / 'certificates'}",
            f"--token-auth-file={self.folder / 'tokens.csv'}",
            "--authorization-mode=RBAC",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={self._private_key}",
            f"--service-account-signing-key-file={self._private_key}",
            "--service-cluster-ip-range=10.0.0.0/16",
            "--endpoint-reconciler-type=none",
            "--shutdown-delay-duration=0s",
        )
        server.wait_until("ready", self._is_ready)

    def _is_ready(self) -> bool:
        try:
            return self.api.get("/readyz")["text"] == "ok"
        except Exception:
            return False

    def _run(self, name: str, *arguments: str) -> Server:
        server = Server(name, [self._binaries[name], *arguments], self.folder / f"{name}.log", folder=self.folder)
        self._servers[name] = server
        return server

    def _ask_etcd(self, path: str, body: dict[str, object]) -> dict[str, dict[str, str]]:
        answer = urllib3.request("POST", f"{self.etcd_url}{path}", json=body)
        return dict(json.loads(answer.data))

    def _write_kubeconfig(self, target: Path, token: str) -> None:
        cluster = {"server": self.url, "certificate-authority": str(self.certificate_authority)}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "user", "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "user"}}],
            "current-context": "test",
        }
        target.write_text(json.dumps(config))
        target.chmod(0o600)
