"""Every alert fires when it must and is silent when it must be: `promtool test rules` over the rules as applied."""

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
