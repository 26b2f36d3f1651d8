"""The stack of dashboards/compose.yaml: how Docker Compose reads it, and the files that it mounts."""

import importlib.util
import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.paths import ROOT

DASHBOARDS = ROOT / "dashboards"
COMPOSE = DASHBOARDS / "compose.yaml"
SECRETS = {
    "TRAITWATCH_API_KEY": "key",
    "TRAITWATCH_ADMIN_KEY": "another key",
    "TRAITWATCH_UI_AUTH": "user:password",
    "GRAFANA_ADMIN_PASSWORD": "password",
    "TRAITWATCH_ALERT_WEBHOOK": "https://alerts.example.org/hooks/traitwatch",
}
PUBLISHED = {"8000", "7860", "3000"}


def compose(environment: Mapping[str, str], *command: str, project: Path = COMPOSE) -> subprocess.CompletedProcess[str]:
    """Run Docker Compose on the file with only this environment. `config` needs no engine."""
    # Run the program itself: the command of the package loses the exit status.
    package = importlib.util.find_spec("compose")
    assert package is not None
    assert package.origin is not None
    program = str(Path(package.origin).parent / "docker-compose")
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", **environment}
    # Ignore the .env file that a user of this checkout may have.
    argv = [program, "--file", str(project), "--env-file", os.devnull, *command]
    return subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)


def resolved(profile: str, **environment: str) -> dict[str, Any]:
    """The services, as Compose resolves them after a check against its schema."""
    completed = compose({**SECRETS, "COMPOSE_PROFILES": profile, **environment}, "config", "--no-path-resolution")
    assert completed.returncode == 0, completed.stderr
    services: dict[str, Any] = yaml.safe_load(completed.stdout)["services"]
    return services


@pytest.fixture(scope="module", params=["cpu", "gpu"])
def services(request: pytest.FixtureRequest) -> dict[str, Any]:
    return resolved(request.param)


def mounted(service: dict[str, Any]) -> dict[str, Path]:
    """Return the files of the repository that a service mounts, by their place in the container."""
    binds = [volume for volume in service["volumes"] if volume["type"] == "bind"]
    return {bind["target"]: DASHBOARDS / bind["source"] for bind in binds}


def test_compose_refuses_what_its_schema_does_not_know(tmp_path: Path) -> None:
    broken = tmp_path / "compose.yaml"
    broken.write_text(COMPOSE.read_text().replace("read_only: true", "readonly: true", 1))
    completed = compose({**SECRETS, "COMPOSE_PROFILES": "cpu"}, "config", project=broken)
    assert completed.returncode != 0
    assert "readonly" in completed.stderr


@pytest.mark.parametrize("profile", ["cpu", "gpu"])
def test_a_profile_runs_its_server_and_no_other(profile: str) -> None:
    services = resolved(profile)
    assert set(services) == {f"server-{profile}", "inspector", "prometheus", "alertmanager", "grafana"}
    assert services["inspector"]["image"] == services[f"server-{profile}"]["image"] == f"traitwatch:{profile}"
    assert services[f"server-{profile}"]["build"]["target"] == profile


def test_only_the_gpu_server_asks_for_gpus() -> None:
    assert "deploy" not in resolved("cpu")["server-cpu"]
    [device] = resolved("gpu")["server-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": -1, "capabilities": ["gpu"]}


def test_three_ports_are_published_only_on_this_machine(services: dict[str, Any]) -> None:
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert {port["published"] for port in ports} == PUBLISHED
    assert {port["host_ip"] for port in ports} == {"127.0.0.1"}


def test_the_address_can_be_chosen() -> None:
    ports = [
        port for service in resolved("cpu", TRAITWATCH_BIND="10.0.0.1").values() for port in service.get("ports", [])
    ]
    assert {port["host_ip"] for port in ports} == {"10.0.0.1"}


@pytest.mark.parametrize("name", [*SECRETS, "COMPOSE_PROFILES"])
@pytest.mark.parametrize("value", [{}, {"empty": ""}])
def test_a_secret_that_is_missing_or_empty_is_asked_for(name: str, value: dict[str, str]) -> None:
    environment = {**SECRETS, "COMPOSE_PROFILES": "cpu"}
    del environment[name]
    completed = compose({**environment, **dict.fromkeys([name] if value else [], "")}, "config", "--quiet")
    assert completed.returncode != 0
    assert f"required variable {name} is missing a value" in completed.stderr


def test_the_example_has_every_variable_and_no_secret() -> None:
    example = (DASHBOARDS / ".env.example").read_text()
    named = dict(re.findall(r"^#?([A-Z_]+)=(.*)$", example, re.MULTILINE))
    read = set(re.findall(r"(?<!\$)\$\{([A-Z_]+)", COMPOSE.read_text()))
    assert set(named) == read
    assert [named[name] for name in SECRETS] == [""] * len(SECRETS)


def test_every_service_is_locked_down(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "privileged" not in service, name


def test_the_images_of_others_are_pinned(services: dict[str, Any]) -> None:
    images = {service["image"] for service in services.values() if "build" not in service}
    foreign = {image for image in images if not image.startswith("traitwatch:")}
    assert len(foreign) == 3
    for image in foreign:
        assert re.fullmatch(r"[a-z/]+:v?\d+\.\d+\.\d+", image)


def test_a_service_that_others_wait_for_has_a_health_check(services: dict[str, Any]) -> None:
    for service in services.values():
        for other, condition in service.get("depends_on", {}).items():
            assert condition["condition"] == "service_healthy"
            # The image has the health check of the servers.
            assert other.startswith("server-") or "test" in services[other]["healthcheck"]


def test_a_server_has_longer_to_stop_than_its_answers_have_to_end(services: dict[str, Any]) -> None:
    [server] = [service for name, service in services.items() if name.startswith("server-")]
    [drain] = [option for option in server["command"] if option.startswith("--drain-seconds=")]
    assert server["stop_grace_period"] == "1m0s"
    assert float(drain.partition("=")[2]) < 60


def test_mounted_files_are_there(services: dict[str, Any]) -> None:
    for name, service in services.items():
        for target, path in mounted(service).items() if "volumes" in service else []:
            assert path.is_file() or (name, target) == ("server-gpu", "/vectors"), path


def test_prometheus_accepts_its_files_and_watches_the_server(services: dict[str, Any], tmp_path: Path) -> None:
    for target, path in mounted(services["prometheus"]).items():
        place = tmp_path / target.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(path.read_bytes())
    config = tmp_path / "etc" / "prometheus" / "prometheus.yml"
    completed = subprocess.run(["promtool", "check", "config", config], capture_output=True, text=True, check=False)
    assert completed.returncode == 0, completed.stdout + completed.stderr
    assert completed.stdout.count("rules found") == 2

    ours = yaml.safe_load(config.read_text())
    shipped = yaml.safe_load((DASHBOARDS / "traitwatch_dashboards" / "prometheus" / "prometheus.yml").read_text())
    assert ours["scrape_configs"][0].pop("static_configs") == [{"targets": ["server:8000"]}]
    assert ours["alerting"]["alertmanagers"][0].pop("static_configs") == [{"targets": ["alertmanager:9093"]}]
    del shipped["scrape_configs"][0]["static_configs"], shipped["alerting"]["alertmanagers"][0]["static_configs"]
    assert ours == shipped


def test_alertmanager_posts_to_the_address_of_the_environment(services: dict[str, Any], tmp_path: Path) -> None:
    service = services["alertmanager"]
    [(inside, shipped)] = mounted(service).items()
    config_file = tmp_path / "alertmanager.yml"
    # The command that Compose gives to the shell, and the files that the shell reads and writes.
    script = service["entrypoint"][-1].replace("$$", "$").replace(inside, str(shipped))
    script = script.replace("/tmp/alertmanager.yml", str(config_file)).replace("exec /bin/alertmanager", "echo")
    subprocess.run([*service["entrypoint"][:-1], script], env=service["environment"], check=True)
    subprocess.run(["amtool", "check-config", config_file], capture_output=True, check=True)

    receivers = yaml.safe_load(config_file.read_text())["receivers"]
    urls = [config["url"] for receiver in receivers for config in receiver["webhook_configs"]]
    address = SECRETS["TRAITWATCH_ALERT_WEBHOOK"]
    assert urls == [f"{address}/pager", f"{address}/tickets", f"{address}/notes"]


def test_grafana_is_given_the_dashboard_where_its_provider_looks(services: dict[str, Any]) -> None:
    files = mounted(services["grafana"])
    provider = yaml.safe_load(files["/etc/grafana/provisioning/dashboards/traitwatch.yaml"].read_text())["providers"][0]
    assert (
        files[f"{provider['options']['path']}/traitwatch.json"]
        == DASHBOARDS / "traitwatch_dashboards" / "grafana" / "traitwatch.json"
    )
    assert services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"] in files

    ours = yaml.safe_load(files["/etc/grafana/provisioning/datasources/traitwatch.yaml"].read_text())
    shipped_file = DASHBOARDS / "traitwatch_dashboards" / "grafana" / "provisioning" / "datasources" / "traitwatch.yaml"
    shipped = yaml.safe_load(shipped_file.read_text())
    assert ours["datasources"][0].pop("url") == "http://prometheus:9090"
    del shipped["datasources"][0]["url"]
    assert ours == shipped
