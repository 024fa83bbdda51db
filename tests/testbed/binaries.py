"""Finds the binaries that the tests need, or builds them: the control plane, kind, helm, kubeconform, kwok, Prometheus.

Each is looked for in `KUBEBUILDER_ASSETS`, then on PATH, then in the cache
`${XDG_CACHE_HOME:-~/.cache}/tierflow/bin-VERSION`. What is nowhere is built into the cache from its Go module;
Prometheus, whose module doesn't build, comes from Debian's package. Neither needs root. Two runs don't build at once:
the second waits for the first.

Also a command, which prints one path per name and says on stderr what it builds:

    python tests/testbed/binaries.py kube-apiserver etcd kubectl

The standard library alone is used here, so that any Python 3.11 runs it, without Tierflow installed.
"""

import argparse
import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

KUBERNETES_VERSION: Final = "v1.36.3"
CONTROL_PLANE: Final = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl")
_VERSION_PACKAGE: Final = "k8s.io/component-base/version"
_DEBIAN_PROMETHEUS: Final = "debian"


class MissingBinaryError(RuntimeError):
    """A binary is nowhere and can't be built here; the message says how to provide it."""


@dataclass(frozen=True, slots=True)
class GoModule:
    """A Go module at a version, and the commands built from it.

    Args:
        path: The module's path.
        version: Its version, like `v1.36.3`.
        commands: The name of each binary and the package that is built to it.
        variables: What the linker sets, name to value: what the binary says of its version.
    """

    path: str
    version: str
    commands: dict[str, str]
    variables: dict[str, str]


_MODULES: Final = (
    GoModule(
        "k8s.io/kubernetes",
        KUBERNETES_VERSION,
        {name: f"k8s.io/kubernetes/cmd/{name}" for name in CONTROL_PLANE if name != "etcd"},
        {
            f"{_VERSION_PACKAGE}.gitVersion": KUBERNETES_VERSION,
            f"{_VERSION_PACKAGE}.gitMajor": "1",
            f"{_VERSION_PACKAGE}.gitMinor": KUBERNETES_VERSION.split(".")[1],
        },
    ),
    GoModule("go.etcd.io/etcd/server/v3", "v3.6.8", {"etcd": "go.etcd.io/etcd/server/v3"}, {}),
    GoModule("sigs.k8s.io/kind", "v0.33.0", {"kind": "sigs.k8s.io/kind"}, {}),
    GoModule(
        "helm.sh/helm/v4",
        "v4.3.1",
        {"helm": "helm.sh/helm/v4/cmd/helm"},
        {"helm.sh/helm/v4/internal/version.version": "v4.3.1"},
    ),
    GoModule(
        "github.com/yannh/kubeconform",
        "v0.8.0",
        {"kubeconform": "github.com/yannh/kubeconform/cmd/kubeconform"},
        {"main.version": "v0.8.0"},
    ),
    GoModule(
        "sigs.k8s.io/kwok",
        "v0.8.0",
        {"kwok": "sigs.k8s.io/kwok/cmd/kwok"},
        {"sigs.k8s.io/kwok/pkg/consts.Version": "v0.8.0"},
    ),
)
MODULE_OF: Final = {command: module for module in _MODULES for command in module.commands}
_OF_PROMETHEUS: Final = ("prometheus", "promtool")
NAMES: Final = (*MODULE_OF, *_OF_PROMETHEUS)


def ensure(*names: str) -> dict[str, Path]:
    """The path of each of `names`, built first where there is none yet.

    Raises:
        MissingBinaryError: where one is nowhere and can't be built.
        KeyError: for a name that isn't one of `NAMES`.
    """
    if any(find(name) is None for name in names):
        with _only_one_build():
            for name in names:
                if find(name) is None:
                    _provide(name)
    return {name: path for name in names if (path := find(name)) is not None}


def find(name: str) -> Path | None:
    """The path of the binary `name`, None where it would have to be built first."""
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    places = [Path(assets) / name] if assets else []
    if on_path := shutil.which(name):
        places.append(Path(on_path))
    places.append(_kept(name))
    return next((place.absolute() for place in places if os.access(place, os.X_OK) and place.is_file()), None)


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tierflow"


def _kept(name: str) -> Path:
    """Where the cache keeps the binary `name`: a folder per version, so that another version is another file."""
    version = MODULE_OF[name].version if name in MODULE_OF else _DEBIAN_PROMETHEUS
    return _cache() / f"bin-{version}" / name


@contextlib.contextmanager
def _only_one_build() -> Iterator[None]:
    _cache().mkdir(parents=True, exist_ok=True)
    with (_cache() / "build.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say("waiting for another run that builds ...")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _provide(name: str) -> None:
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="tierflow-build-") as folder:
        module = MODULE_OF.get(name)
        built = _build(name, module, Path(folder)) if module else _unpack_prometheus(Path(folder)) / name
        kept = _kept(name)
        kept.parent.mkdir(parents=True, exist_ok=True)
        # Renamed within the cache, so that a build that is killed leaves no half a binary under its name.
        incomplete = kept.with_name(f".{name}.incomplete")
        shutil.copy2(built, incomplete)
        incomplete.rename(kept)
    _say(f"{kept} ({time.monotonic() - started:.0f} s)")


def _build(name: str, module: GoModule, folder: Path) -> Path:
    """Builds one command of `module`, from a main module of its own: `go install` refuses modules with replacements."""
    if shutil.which("go") is None:
        raise MissingBinaryError(
            f"{name} is neither in KUBEBUILDER_ASSETS nor on PATH nor in {_kept(name).parent}, and Go, which would "
            f"build it, is not on PATH: install Go 1.24 or newer, or put {name} {module.version} on PATH"
        )
    _say(f"building {name} {module.version}; the first of Kubernetes takes minutes ...")
    _run("go", "mod", "init", "build", cwd=folder)
    _run("go", "mod", "edit", f"-require={module.path}@{module.version}", cwd=folder)
    downloaded = json.loads(_run("go", "mod", "download", "-json", f"{module.path}@{module.version}", cwd=folder))
    for staged in _staging_modules(Path(downloaded["GoMod"])):
        published = f"{staged}@v0.{module.version.removeprefix('v1.')}"
        _run("go", "mod", "edit", f"-replace={staged}={published}", cwd=folder)
    settings = " ".join(["-s -w", *(f"-X {variable}={value}" for variable, value in module.variables.items())])
    _run("go", "build", "-ldflags", settings, "-o", name, module.commands[name], cwd=folder)
    return folder / name


def _staging_modules(go_mod: Path) -> list[str]:
    """The modules that Kubernetes keeps in its own tree: only these are replaced, by what is published of them."""
    edited = json.loads(_run("go", "mod", "edit", "-json", str(go_mod), cwd=go_mod.parent))
    replaced = edited.get("Replace") or []
    return [entry["Old"]["Path"] for entry in replaced if entry["New"]["Path"].startswith("./staging/")]


def _unpack_prometheus(folder: Path) -> Path:
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        raise MissingBinaryError(
            "prometheus is not on PATH, and there is no apt-get and dpkg to unpack Debian's package with: "
            "put prometheus 2.42 or newer on PATH"
        )
    _say("unpacking Debian's package of prometheus ...")
    try:
        _run("apt-get", "-qq", "download", "prometheus", cwd=folder)
    except MissingBinaryError as error:
        raise MissingBinaryError(f"{error}\nPut prometheus on PATH, or run `apt-get update` as root first") from error
    (package,) = folder.glob("prometheus_*.deb")
    _run("dpkg", "-x", str(package), "unpacked", cwd=folder)
    return folder / "unpacked/usr/bin"


def _run(*command: str, cwd: Path) -> str:
    """Standard output of `command`; what it says on stderr is shown only if it fails."""
    # Static and without paths of this machine: the same files serve in images, and Go's cache serves every build.
    environment = os.environ | {"CGO_ENABLED": "0", "GOFLAGS": "-mod=mod -trimpath", "GOWORK": "off"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise MissingBinaryError(f"`{' '.join(command)}` failed:\n{done.stderr.strip()[-4000:]}")
    return done.stdout


def _say(text: str) -> None:
    print(f"testbed: {text}", file=sys.stderr, flush=True)


def main() -> int:
    """The command: prints the path of each named binary, 1 where one can't be had."""
    parser = argparse.ArgumentParser(
        description="Finds or builds the binaries that the tests need; prints their paths."
    )
    parser.add_argument("names", nargs="+", choices=NAMES, metavar="NAME", help=", ".join(NAMES))
    arguments = parser.parse_args()
    try:
        paths = ensure(*arguments.names)
    except MissingBinaryError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for name in arguments.names:
        print(paths[name])
    return 0


if __name__ == "__main__":
    sys.exit(main())
