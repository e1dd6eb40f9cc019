"""Alerts fire when they must and only then, and autoscalers get numbers: `promtool test rules` over both."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

K8S = Path(__file__).parents[2] / "k8s"
RULES = (K8S / "base" / "prometheusrule.yaml", K8S / "training" / "prometheusrule.yaml")
CASES = Path(__file__).parent / "prometheusrule_test.yaml"


def groups() -> list[dict[str, Any]]:
    return [group for file in RULES for group in yaml.safe_load(file.read_text())["spec"]["groups"]]


def alerts() -> list[dict[str, Any]]:
    return [rule for group in groups() for rule in group["rules"]]


@pytest.mark.prometheus
def test_the_alerts_fire_and_are_silent_as_their_cases_say(tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": groups()}))
    (tmp_path / CASES.name).write_text(CASES.read_text())

    checked = subprocess.run(["promtool", "check", "rules", "rules.yaml"], cwd=tmp_path, capture_output=True, text=True)
    tested = subprocess.run(["promtool", "test", "rules", CASES.name], cwd=tmp_path, capture_output=True, text=True)

    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert tested.returncode == 0, tested.stdout + tested.stderr


def autoscalers_queries() -> dict[str, str]:
    """How each autoscaler asks how busy the workers are, with the adapter's template filled in."""
    components = K8S / "components"
    triggers = yaml.safe_load((components / "autoscaling-keda" / "scaledobject.yaml").read_text())["spec"]["triggers"]
    (keda,) = [query for trigger in triggers if "worker_up" in (query := trigger["metadata"]["query"])]
    rules = yaml.safe_load((components / "autoscaling-hpa" / "adapter-rules.yaml").read_text())["custom"]
    (rule,) = [rule for rule in rules if "worker_up" in rule["metricsQuery"]]
    filled = {
        "<<.Series>>": rule["seriesQuery"].partition("{")[0],
        "<<.LabelMatchers>>": 'namespace="argmax",pod=~"a|b"',
        "<<.GroupBy>>": "pod",
    }
    adapter = rule["metricsQuery"]
    for name, value in filled.items():
        adapter = adapter.replace(name, value)
    return {"keda": keda, "adapter": adapter}


@pytest.mark.prometheus
def test_a_pod_without_a_worker_leaves_the_autoscalers_the_others(tmp_path: Path) -> None:
    # 0 / 0 is NaN, and so is then the sum over all pods, which KEDA took for a large negative number
    # (https://github.com/kedacore/keda/issues/7475).
    labels = 'namespace="argmax",app_kubernetes_io_instance="argmax"'
    queries = autoscalers_queries()
    case = {
        "interval": "15s",
        "input_series": [
            {"series": f'inference_compute_seconds_total{{{labels},pod="a",model="m"}}', "values": "0+12x40"},
            {"series": f'inference_compute_seconds_total{{{labels},pod="b",model="m"}}', "values": "5x40"},
            {"series": f'inference_worker_up{{{labels},pod="a",worker="0"}}', "values": "1x40"},
            {"series": f'inference_worker_up{{{labels},pod="b",worker="0"}}', "values": "0x40"},
        ],
        "promql_expr_test": [
            {"expr": queries["keda"], "eval_time": "5m", "exp_samples": [{"labels": "{}", "value": 0.8}]},
            {"expr": queries["adapter"], "eval_time": "5m", "exp_samples": [{"labels": '{pod="a"}', "value": 0.8}]},
        ],
    }
    (tmp_path / "cases.yaml").write_text(yaml.safe_dump({"evaluation_interval": "15s", "tests": [case]}))

    tested = subprocess.run(["promtool", "test", "rules", "cases.yaml"], cwd=tmp_path, capture_output=True, text=True)

    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_each_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    cases = [case for test in yaml.safe_load(CASES.read_text())["tests"] for case in test["alert_rule_test"]]
    names = [alert["alert"] for alert in alerts()]

    fires = {case["alertname"] for case in cases if case.get("exp_alerts")}
    is_silent = {case["alertname"] for case in cases if not case.get("exp_alerts")}

    assert len(set(names)) == len(names)
    assert fires == is_silent == set(names)


def test_each_alert_begins_with_its_namespace_where_an_overlay_writes_its_own() -> None:
    for alert in alerts():
        before, namespace, _ = alert["expr"].split('"', 2)
        assert before.rstrip().endswith("namespace="), alert["alert"]
        assert namespace == "argmax", alert["alert"]


def test_each_alert_says_how_bad_it_is_and_what_it_means() -> None:
    for alert in alerts():
        assert alert["labels"]["severity"] in ("critical", "warning"), alert["alert"]
        assert alert["annotations"].keys() == {"summary", "description"}, alert["alert"]
