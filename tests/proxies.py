"""Real proxies, each a process of its own with a configuration of its own, without privileges; and fake ones."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Self

import pytest

from tests.conftest import ROOT, wait_for

TOOLS = ROOT / ".venv" / "tools"
NOBODY = 65534
USER, PASSWORD = "mooring", "s3cr3t"

SQUID_HELPER = f"""#!/bin/sh
while read user password; do
    if [ "$user $password" = "{USER} {PASSWORD}" ]; then echo OK; else echo ERR; fi
done
"""
PASSWORD_HASH = "$1$mooring$b5Tb5JXp3L5yMj.DAcseP/"  # openssl passwd -1 -salt mooring s3cr3t
LOWEST_PORT = 10_000
NAMESPACES = ["unshare", "--map-root-user", "--mount"]


_given_out: set[int] = set()


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port for what is started later, and perhaps again: none that the kernel gives to whoever dials or asks for any,
    none twice, and none of those that the other processes of this run of the tests give out.
    """
    below = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    mine = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % processes
    while True:
        # Where the kernel gives out all that there are, one of those has to do.
        port = secrets.randbelow(below - LOWEST_PORT) + LOWEST_PORT if below > LOWEST_PORT else 0
        if port and (port % processes != mine or port in _given_out):
            continue
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as sock:
            try:
                sock.bind((host, port))
            except OSError:
                continue
            _given_out.add(port)
            return int(sock.getsockname()[1])


def free_ports(count: int) -> list[int]:
    """Return so many of them, no two the same."""
    found: set[int] = set()
    while len(found) < count:
        found.add(free_port())
    return list(found)


def program(name: str) -> str:
    """Where a program of `tools/install-test-tools` is; skips the test that needs one which cannot be had."""
    folders = [str(TOOLS / "usr" / "bin"), str(TOOLS / "usr" / "sbin"), "/usr/sbin"]
    found = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), *folders]))
    if found is None:
        pytest.skip(f"no {name} here: tools/install-test-tools could not get it")
    return found


def _share(*parts: str) -> str:
    """Where Debian's files of a package are, unpacked or installed."""
    unpacked = TOOLS.joinpath("usr", *parts)
    return str(unpacked if unpacked.exists() else Path("/usr").joinpath(*parts))


def _environment() -> dict[str, str]:
    libraries = [str(path) for path in (*TOOLS.glob("usr/lib/*-linux-gnu"), *TOOLS.glob("lib/*-linux-gnu"))]
    return {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(libraries)}


class ProxyProcess:
    """One proxy, listening on a port of 127.0.0.1."""

    scheme = "http"
    program = ""
    may_be_nobody = True

    def __init__(self, *, auth: bool = False) -> None:
        self.auth = auth
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self.folder = Path()

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    def prepare(self) -> list[str]:
        """Write what it reads into `folder`; return its arguments."""
        raise NotImplementedError

    def command(self, path: str, arguments: list[str]) -> list[str]:
        """How it is started."""
        return [path, *arguments]

    async def __aenter__(self) -> Self:
        path = program(self.program)
        self._temporary = tempfile.TemporaryDirectory(prefix="mooring-proxy-")
        self.folder = Path(self._temporary.name)
        try:
            command = self.command(path, self.prepare())
        except BaseException:  # what it needs is not here: the test is skipped
            self._temporary.cleanup()
            raise
        ids = {}
        if os.geteuid() == 0 and self.may_be_nobody:
            for made in (self.folder, *self.folder.iterdir()):
                os.chown(made, NOBODY, NOBODY)
            if all(parent.stat().st_mode & 1 for parent in Path(path).parents):  # and where nobody may reach it
                ids = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
        with (self.folder / "output").open("wb") as output:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=self.folder, env=_environment(),
                start_new_session=True, **ids,
            )  # fmt: skip
        await wait_for(self._listens, 60, f"{self.program} listens: {self.log()[-2000:]}")
        return self

    def _listens(self) -> bool:
        assert self.process is not None and self.process.poll() is None, f"{self.program} has ended: {self.log()}"
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True

    async def __aexit__(self, *exc: object) -> None:
        self.kill()
        self._temporary.cleanup()

    def kill(self) -> None:
        """End it and its helpers at once."""
        assert self.process is not None
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()

    def log(self) -> str:
        """What it has written."""
        texts = [
            path.read_text(errors="replace")
            for path in self.folder.iterdir()
            if path.suffix == ".log" or path.name == "output"
        ]
        return "\n".join(texts)


class Tinyproxy(ProxyProcess):
    program = "tinyproxy"

    def prepare(self) -> list[str]:
        config = self.folder / "tinyproxy.conf"
        lines = [f"Port {self.port}", "Listen 127.0.0.1", "Timeout 600", "MaxClients 200", "LogLevel Info"]
        lines += [f'PidFile "{self.folder}/pid"', f'LogFile "{self.folder}/tinyproxy.log"']
        if self.auth:
            lines.append(f"BasicAuth {USER} {PASSWORD}")
        config.write_text("\n".join([*lines, ""]))
        return ["-d", "-c", str(config)]


class Squid(ProxyProcess):
    program = "squid"

    def __init__(
        self, *, auth: bool = False, stock: bool = False, idle_s: int = 900, hosts: dict[str, str] | None = None
    ) -> None:
        super().__init__(auth=auth)
        self.stock = stock
        self.idle_s = idle_s
        self.hosts = hosts or {}  # names that only the proxy knows

    def prepare(self) -> list[str]:
        helper = self.folder / "helper"
        helper.write_text(SQUID_HELPER)
        helper.chmod(0o755)
        lines = [
            f"http_port 127.0.0.1:{self.port}",
            f"pid_filename {self.folder}/pid",
            f"cache_log {self.folder}/cache.log",
        ]
        lines += [
            "cache_effective_user nobody",
            "access_log none",
            "cache deny all",
            "cache_mem 1 MB",
            "pinger_enable off",
            "netdb_filename none",
        ]
        lines += [
            "shutdown_lifetime 0 seconds",
            f"coredump_dir {self.folder}",
            "max_filedescriptors 1024",
            "visible_hostname proxy.test",
        ]
        lines += [
            f"mime_table {_share('share', 'squid', 'mime.conf')}",
            f"icon_directory {_share('share', 'squid', 'icons')}",
        ]
        lines += [
            f"error_directory {_share('share', 'squid-langpack', 'en')}",
            "unlinkd_program /bin/true",
            f"read_timeout {self.idle_s} seconds",
        ]
        if self.hosts:
            hosts = self.folder / "hosts"
            hosts.write_text("".join([f"{address} {name}\n" for name, address in self.hosts.items()]))
            lines.append(f"hosts_file {hosts}")
        if self.auth:
            lines += [
                f"auth_param basic program {helper}",
                "auth_param basic children 1 startup=1",
                "acl known proxy_auth REQUIRED",
                "http_access deny !known",
            ]
        if self.stock:
            lines += ["acl SSL_ports port 443", "http_access deny CONNECT !SSL_ports"]
        config = self.folder / "squid.conf"
        config.write_text("\n".join([*lines, "http_access allow all", ""]))
        return ["-N", "-f", str(config), "-n", f"mooring{self.port}"]


class Microsocks(ProxyProcess):
    program = "microsocks"
    scheme = "socks5"

    def prepare(self) -> list[str]:
        credentials = ["-u", USER, "-P", PASSWORD] if self.auth else []
        return ["-i", "127.0.0.1", "-p", str(self.port), *credentials]


class Dante(ProxyProcess):
    """With `auth` it lets in users of the system: it is given a system of its own that has one."""

    program = "danted"
    scheme = "socks5"

    def __init__(self, *, auth: bool = False) -> None:
        super().__init__(auth=auth)
        self.may_be_nobody = not auth

    def prepare(self) -> list[str]:
        (self.folder / "passwd").write_text(f"root:x:0:0::/:/bin/sh\n{USER}:x:1000:1000::/:/bin/false\n")
        (self.folder / "shadow").write_text(f"root:*:19000::::::\n{USER}:{PASSWORD_HASH}:19000::::::\n")
        config = self.folder / "danted.conf"
        config.write_text(
            f"logoutput: stderr\ninternal: 127.0.0.1 port = {self.port}\n"
            "external: 127.0.0.1\nexternal: ::1\nexternal.rotation: route\n"
            f"clientmethod: none\nsocksmethod: {'username' if self.auth else 'none'}\n"
            "client pass { from: 0/0 to: 0/0 }\nsocks pass { from: 0/0 to: 0/0 }\n"
        )
        return ["-f", str(config)]

    def command(self, path: str, arguments: list[str]) -> list[str]:
        if not self.auth:
            return [path, *arguments]
        if subprocess.run([*NAMESPACES, "true"], capture_output=True, check=False).returncode:
            pytest.skip("this machine lets us make no namespaces (unshare): dante knows only users of the system")
        mounts = " && ".join(f"mount --bind {self.folder}/{name} /etc/{name}" for name in ("passwd", "shadow"))
        return [*NAMESPACES, "sh", "-c", f'{mounts} && exec "$@"', "sh", path, *arguments]


class Stunnel(ProxyProcess):
    """TLS in front of another proxy: the two together are an HTTPS proxy."""

    program = "stunnel4"
    scheme = "https"

    def __init__(self, behind: ProxyProcess, cert: str, key: str) -> None:
        super().__init__(auth=behind.auth)
        self.behind = behind
        self._pem = Path(key).read_text() + Path(cert).read_text()

    def prepare(self) -> list[str]:
        (self.folder / "proxy.pem").write_text(self._pem)
        config = self.folder / "stunnel.conf"
        config.write_text(
            f"foreground = yes\npid =\n[proxy]\naccept = 127.0.0.1:{self.port}\nconnect = 127.0.0.1:{self.behind.port}\n"
            f"cert = {self.folder}/proxy.pem\n"
        )
        return [str(config)]
