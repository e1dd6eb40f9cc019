"""Versions come and go while the service runs, and no request notices."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from service.contract.manifest import FeatureInput
from service.contract.registry import Registry
from tests import load, pictures
from tests.registries import Endless, FirstFeature, Slow, artifact_of, publish
from tests.running import Service, serving
from tests.waiting import until, wait_until

PNG = pictures.row_png(4)
SWAPS = 40


@pytest.fixture
def followed(tmp_path: Path) -> Iterator[Service]:
    publish(tmp_path)
    with serving(
        tmp_path, "--poll-seconds", "0.05", "--http-processes", "1", "--trial-seconds", "1", traced=False
    ) as service:
        yield service
        assert service.stop() == 0, service.text


def served_version(service: Service) -> int:
    answer = service.predict(PNG)
    assert answer.json()["predictions"][0]["class_id"] == 4
    return int(answer.json()["version"])


def wait_for_version(service: Service, version: int) -> None:
    wait_until(lambda: served_version(service) == version, otherwise=lambda: service.text)


def test_a_published_version_is_served_and_the_one_before_stays_by_its_number(
    followed: Service, tmp_path: Path
) -> None:
    publish(tmp_path)
    wait_for_version(followed, 2)

    assert followed.predict(PNG, query="?version=1").json()["version"] == 1
    publish(tmp_path)
    wait_for_version(followed, 3)
    assert followed.predict(PNG, query="?version=1").status_code == 404


def test_promoting_and_going_back_moves_what_is_served(followed: Service, tmp_path: Path) -> None:
    publish(tmp_path)
    wait_for_version(followed, 2)

    Registry(tmp_path).set_alias("rows", "production", 1)
    wait_for_version(followed, 1)
    assert followed.predict(PNG, query="?version=production").json()["version"] == 1
    Registry(tmp_path).set_alias("rows", "production", 2)
    wait_for_version(followed, 2)


def test_what_is_wrong_with_a_new_version_is_said_and_the_old_one_serves_on(followed: Service, tmp_path: Path) -> None:
    (worker,) = followed.processes("worker")
    publish(tmp_path, artifact=artifact_of(Endless()))
    followed.wait_for_log(r"refused rows@2: ")
    publish(tmp_path, artifact=b"no module")
    followed.wait_for_log(r"refused rows@3: ")

    assert served_version(followed) == 1
    reasons = {
        2: "it must load, answer its golden sample and warm up within 1 s of computing. Given: no answer",
        3: "the artifact must be a TorchScript module",
    }
    until = time.monotonic() + 30
    absent: list[dict[str, str]] = []
    while [entry["state"] for entry in absent] != ["refused"] * 2:
        assert time.monotonic() < until
        absent = followed.client.get("/models").json()["absent"]
    index = followed.client.post("/v2/repository/index").json()
    for version, reason in reasons.items():
        answer = followed.client.get(f"/v2/models/rows/versions/{version}/ready")
        assert answer.status_code == 404
        assert f"refused rows@{version}: rows@{version}: {reason}" in answer.json()["error"]
        assert reason in absent[version - 2]["reason"]
        assert [entry["reason"][8:].startswith(reason) for entry in index if entry["version"] == str(version)] == [True]
    assert [entry["state"] for entry in index] == ["READY", "UNAVAILABLE", "UNAVAILABLE"]
    assert len(followed.client.post("/v2/repository/index", content=b'{"ready": true}').json()) == 1
    assert followed.metric("inference_model_load_total", model="rows", result="refused") == 2
    assert followed.text.count("refused rows@3: ") == 1
    assert followed.processes("worker") == [worker]

    # Its replacement serves the same, and what is published next.
    worker.kill()
    followed.wait_for_log("worker 0 .* ended with code -9")
    assert served_version(followed) == 1
    wait_until(lambda: followed.client.get("/models").json()["absent"] == absent)
    publish(tmp_path)
    wait_for_version(followed, 4)


def test_models_come_and_go(followed: Service, tmp_path: Path) -> None:
    publish(tmp_path, "other")
    statuses = []

    def answers() -> bool:
        answer = followed.predict(PNG, query="?model=other")
        statuses.append(answer.status_code)
        assert answer.status_code != 503 or answer.headers["retry-after"] == "1"
        return answer.status_code == 200

    wait_until(answers)
    (tmp_path / "other").rename(tmp_path / ".other")
    wait_until(lambda: followed.predict(PNG, query="?model=other").status_code == 404)

    assert list(dict.fromkeys(statuses)) in ([404, 503, 200], [503, 200])  # not there, loading, there
    assert served_version(followed) == 1


def test_a_registry_that_is_gone_changes_nothing(followed: Service, tmp_path: Path) -> None:
    (tmp_path / "rows").rename(tmp_path / ".rows")
    time.sleep(0.3)

    assert served_version(followed) == 1


@pytest.mark.timeout(400)
def test_swaps_under_load_cost_no_request_and_leave_nothing_behind(
    followed: Service, tmp_path: Path, times: int
) -> None:
    swaps = SWAPS * times
    (worker,) = followed.processes("worker")

    async def swap_under_load() -> tuple[load.Tally, list[int], list[int]]:
        tally = load.Tally()
        sending = asyncio.create_task(load.send_all(followed.port, 10**9, connections=4, tally=tally))
        memory, descriptors = [], []
        for version in range(2, swaps + 2):
            await asyncio.to_thread(publish, tmp_path)
            await until(lambda: tally.versions[version])  # noqa: B023 - called in this turn
            memory.append(worker.memory_full_info().uss)
            descriptors.append(worker.num_fds())
        tally.stop = True
        await sending
        return tally, memory, descriptors

    tally, memory, descriptors = asyncio.run(swap_under_load())

    assert set(tally.statuses) == {200}
    assert (tally.wrong, tally.losses) == ([], 0)
    assert len(tally.versions) == swaps + 1
    assert max(descriptors) <= descriptors[0] + 2
    # Versions are retired after ten seconds; by the last half as many come as go.
    assert memory[-1] < memory[swaps // 2] * 1.1 + 20 * 2**20
    assert worker.is_running()
    assert worker.status() != psutil.STATUS_ZOMBIE


def test_a_model_of_another_kind_may_take_the_place_of_one(followed: Service, tmp_path: Path) -> None:
    publish(tmp_path, "rows", FirstFeature(), spec=FeatureInput(shape=(2,)), classes=("negative", "positive"))
    followed.wait_for_log("serving rows@2")

    def ask() -> tuple[int, str]:
        answer = followed.client.post("/predict", json={"features": [[1, 0]]})
        return answer.status_code, answer.text

    wait_until(lambda: ask()[0] == 200)
    assert '"label":"positive"' in ask()[1]


def test_the_default_model_answers_while_the_others_are_loaded_and_then_the_service_is_ready(tmp_path: Path) -> None:
    publish(tmp_path, "rows")
    publish(tmp_path, "slow", Slow(200))

    service = Service(tmp_path, "--default-model", "rows", "--http-processes", "1", traced=False)
    try:
        address = service.wait_for_log(r"listening on (http://[^\s\"]+)")[1]
        with httpx.Client(base_url=address, timeout=60, headers={"content-type": "image/png"}) as client:
            wait_until(lambda: client.post("/predict", content=PNG).status_code != 503)
            first = client.post("/predict", content=PNG)
            ready, asked = client.get("/readyz"), client.post("/predict?model=slow", content=PNG)
            service.start()
            later = service.predict(PNG, query="?model=slow")
        stopped = service.stop()
    finally:
        service.close()

    assert first.json()["model"] == "rows"
    assert (ready.status_code, ready.json()["status"]) == (503, "other models are being loaded")
    assert (asked.status_code, asked.json()["detail"]) == (503, "slow@1 must be loaded. Given: it is being loaded")
    assert (later.status_code, later.json()["model"]) == (200, "slow")
    assert stopped == 0, service.text


def test_a_service_outlives_its_registry_through_the_death_of_a_worker_and_a_restart(tmp_path: Path) -> None:
    root, cache = tmp_path / "models", tmp_path / "cache"
    publish(root)
    publish(root)
    Registry(root).promote("rows", 2)
    options = ("--http-processes", "1", "--cache-dir", str(cache), "--poll-seconds", "0.1", "--keep-versions", "1")
    with serving(root, *options, traced=False) as service:
        wait_until(lambda: service.predict(PNG, query="?version=1").status_code == 200)
        root.rename(tmp_path / "away")
        service.processes("worker")[0].kill()
        service.wait_for_log("worker 0 .* ended with code -9")
        after_death = [service.predict(PNG, query=query).json()["version"] for query in ("", "?version=1")]
        aged = service.wait_for_metric(0.5, "inference_registry_age_seconds")
        assert service.stop() == 0, service.text
    with serving(root, *options, traced=False) as service:
        after_restart = service.predict(PNG).json()["version"]
        said = service.text
        (tmp_path / "away").rename(root)
        Registry(root).promote("rows", 1)
        wait_for_version(service, 1)
        healed = service.metric("inference_registry_age_seconds")
        ready = service.client.get("/readyz").json()
        assert service.stop() == 0, service.text
    root.rename(tmp_path / "away")
    first_boot = Service(root, "--http-processes", "1", traced=False)
    try:
        code = first_boot.wait(60)
    finally:
        first_boot.close()

    assert after_death == [2, 1]
    assert aged >= 0.5 > healed
    assert after_restart == 2
    assert "what it last held is served from the local copy" in said
    assert ready["falls_back"] == {}
    assert code == 2


def test_a_service_that_falls_back_says_so_where_people_look_and_no_more_once_production_can_serve(
    followed: Service, tmp_path: Path
) -> None:
    publish(tmp_path)
    Registry(tmp_path).set_alias("rows", "production", 2)
    wait_for_version(followed, 2)
    manifest = publish(tmp_path, artifact=b"no module")
    Registry(tmp_path).set_alias("rows", "production", manifest.version)
    (tmp_path / "canary").write_text("garbage")
    (tmp_path / "canary").rename(tmp_path / "rows" / "aliases" / "canary")  # never seen while it is empty

    followed.wait_for_metric(1, "inference_model_fallback", model="rows")
    wait_until(lambda: len(followed.client.get("/models").json()["absent"]) == 2)
    ready = followed.client.get("/readyz")
    absent = followed.client.get("/models").json()["absent"]
    index = followed.client.post("/v2/repository/index").json()
    faults = followed.wait_for_metric(2, "inference_model_faults", model="rows")
    (tmp_path / "rows" / "aliases" / "canary").unlink()
    Registry(tmp_path).set_alias("rows", "production", 2)

    assert (ready.status_code, list(ready.json()["falls_back"])) == (200, ["rows"])
    assert ready.json()["falls_back"]["rows"].startswith("rows@3: rows@3: the artifact must be a TorchScript module")
    assert [(entry["version"], entry["is_production"]) for entry in absent] == [(0, False), (3, True)]
    assert "an alias must hold a version number. Given: b'garbage'" in absent[0]["reason"]
    assert [entry["version"] for entry in index if entry["state"] == "UNAVAILABLE"] == ["", "3"]
    assert faults == 2
    wait_until(lambda: followed.client.get("/models").json()["absent"] == [])
    wait_until(lambda: followed.metric("inference_model_faults") + followed.metric("inference_model_fallback") == 0)
    assert followed.client.get("/readyz").json()["falls_back"] == {}
