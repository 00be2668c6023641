"""What is handed to Prometheus and Grafana speaks of metrics that exist."""

import json
import re
from collections.abc import Iterator

import yaml

from mcpproxy.control.metrics import METRICS
from tests.house.tree import ROOT

DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "mcpproxy.json").read_text())
ALERTS = yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yml").read_text())
ALERTS_TEST = yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.test.yml").read_text())
KNOWN = {f"mcpproxy_{known.name}": known for known in METRICS}
PARTS = ("_bucket", "_sum", "_count")  # of a histogram


def expressions() -> Iterator[str]:
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            yield target["expr"]
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["definition"]
    for group in ALERTS["groups"]:
        for rule in group["rules"]:
            yield rule["expr"]


def metric_of(name: str) -> str:
    """A histogram is asked for by its parts."""
    for part in PARTS:
        base = name.removesuffix(part)
        if base != name and KNOWN.get(base) and KNOWN[base].kind == "histogram":
            return base
    return name


def test_every_expression_asks_for_what_there_is() -> None:
    for expression in expressions():
        names = re.findall(r"\bmcpproxy_\w+", expression)
        assert names, expression
        for name in names:
            assert metric_of(name) in KNOWN, f"{name} in {expression}"
            assert KNOWN[metric_of(name)].kind != "histogram" or name != metric_of(name), expression


def test_labels_are_those_of_the_metrics() -> None:
    everywhere = {"job", "instance", "le"}
    for expression in expressions():
        for name, matchers in re.findall(r"\b(mcpproxy_\w+)\{([^}]*)\}", expression):
            labels = set(re.findall(r"(\w+)(?:=|!=|=~|!~)\"", matchers))
            assert labels <= {*KNOWN[metric_of(name)].labels, *everywhere}, expression
        names = {label for found in re.findall(r"\b(?:by|without) \(([^)]*)\)", expression) for label in found.split(", ")}
        used = [set(KNOWN[metric_of(name)].labels) for name in re.findall(r"\bmcpproxy_\w+", expression)]
        assert names <= everywhere.union(*used), expression


def test_every_metric_that_grows_is_seen_as_a_rate() -> None:
    for expression in expressions():
        for name in re.findall(r"\bmcpproxy_\w+", expression):
            if KNOWN[metric_of(name)].kind != "gauge" and "label_values" not in expression:
                assert re.search(rf"(rate|increase)\({name}\b", expression), expression


def test_panels_have_places_and_titles() -> None:
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in DASHBOARD["panels"]]
    assert len(set(places)) == len(places)
    assert all(panel["title"] for panel in DASHBOARD["panels"])
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(places)


def test_alerts_say_how_bad_and_what() -> None:
    for group in ALERTS["groups"]:
        for rule in group["rules"]:
            assert rule["labels"]["severity"] in ("warning", "critical")
            assert rule["annotations"]["summary"]


def test_every_alert_is_tried_firing_and_silent() -> None:
    """`make alerts` runs what stands there."""
    tried = {(each["alertname"], bool(each.get("exp_alerts"))) for test in ALERTS_TEST["tests"] for each in test["alert_rule_test"]}
    names = {rule["alert"] for group in ALERTS["groups"] for rule in group["rules"]}
    assert tried == {(name, fires) for name in names for fires in (True, False)}
    measured = {
        name for test in ALERTS_TEST["tests"] for each in test["input_series"] for name in re.findall(r"^mcpproxy_[a-z_]+", each["series"])
    }
    assert {metric_of(name) for name in measured} <= set(KNOWN)
