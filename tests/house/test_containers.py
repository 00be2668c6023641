"""What deploy/ shows works as far as can be told without a container: it parses, and its parts agree."""

import tomllib
from typing import Any

import pytest
import yaml

from mcpproxy.config import load
from mcpproxy.config.model import Config
from tests.house.tree import ROOT

DEPLOY = ROOT / "deploy"
CONTAINERFILE = (DEPLOY / "Containerfile").read_text()
KUBERNETES: dict[str, Any] = {each["kind"]: each for each in yaml.safe_load_all((DEPLOY / "kubernetes" / "mcpproxy.yaml").read_text())}
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
TEXTS = {"compose": (DEPLOY / "container.toml").read_text(), "kubernetes": KUBERNETES["ConfigMap"]["data"]["mcpproxy.toml"]}
POD = KUBERNETES["Deployment"]["spec"]["template"]["spec"]
CONTAINER = POD["containers"][0]


def loaded(name: str) -> Config:
    assert tomllib.loads(TEXTS[name])
    return load.load(TEXTS[name])


def ports(config: Config) -> set[int]:
    return {int(listen.address.rpartition(":")[2]) for listen in config.listen}


@pytest.mark.parametrize("name", sorted(TEXTS))
def test_the_configurations_load_and_answer_the_health_check(name: str) -> None:
    config = loaded(name)
    assert ports(config) == {8443, 8081}
    assert min(ports(config)) >= 1024
    assert config.health == "/healthz"
    assert f"http://127.0.0.1:8081{config.health}" in CONTAINERFILE


def test_the_image_is_not_root_and_ends_as_the_daemon_does() -> None:
    lines = CONTAINERFILE.splitlines()
    assert "USER 10001" in lines
    assert "STOPSIGNAL SIGTERM" in lines
    assert 'CMD ["run", "-c", "/etc/mcpproxy/mcpproxy.toml"]' in lines


def test_compose_gives_what_the_configuration_names() -> None:
    service, config = COMPOSE["services"]["mcpproxy"], loaded("compose")
    assert (DEPLOY / "container.toml").is_file()
    assert "./container.toml:/etc/mcpproxy/mcpproxy.toml:ro" in service["volumes"]
    (tls,) = [listen.tls for listen in config.listen if listen.tls]
    assert not isinstance(tls, str)
    assert {pair.cert for pair in tls.files} | {pair.key for pair in tls.files} == {f"/run/secrets/{name}" for name in service["secrets"]}
    assert config.drain < int(service["stop_grace_period"].removesuffix("s"))
    assert "server" in COMPOSE["services"]
    assert config.upstream["server"].urls == ("http://server:8000",)


def test_a_pod_has_the_time_to_drain() -> None:
    wait = int(CONTAINER["lifecycle"]["preStop"]["exec"]["command"][1])
    assert wait + loaded("kubernetes").drain < POD["terminationGracePeriodSeconds"]


def test_probes_service_and_mounts_fit_to_the_configuration() -> None:
    config = loaded("kubernetes")
    named = {port["name"]: port["containerPort"] for port in CONTAINER["ports"]}
    assert set(named.values()) == ports(config)
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert CONTAINER[probe]["httpGet"] == {"path": config.health, "port": "health"}
    assert KUBERNETES["Service"]["spec"]["ports"][0]["targetPort"] in named
    assert KUBERNETES["Service"]["spec"]["selector"] == KUBERNETES["Deployment"]["spec"]["selector"]["matchLabels"]
    mounts = {mount["name"]: mount["mountPath"] for mount in CONTAINER["volumeMounts"]}
    assert set(mounts) == {volume["name"] for volume in POD["volumes"]}
    (tls,) = [listen.tls for listen in config.listen if listen.tls]
    assert not isinstance(tls, str)
    assert all(pair.cert is not None and pair.cert.startswith(mounts["tls"]) for pair in tls.files)
    assert CONTAINER["args"] == ["run", "-c", f"{mounts['config']}/mcpproxy.toml"]


def test_a_pod_may_do_nothing_it_does_not_need() -> None:
    assert POD["securityContext"]["runAsNonRoot"]
    assert CONTAINER["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
