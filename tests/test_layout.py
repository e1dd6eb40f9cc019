"""Tests mirror the tree: every module has a test file of its name, or a line here that says where it is tested."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

ELSEWHERE = {
    # Modules of service/ whose tests have another name, because they are only seen through what uses them.
    "service/api/app.py": "tests/end_to_end/test_serving.py",
    "service/api/multipart.py": "tests/service/api/test_body.py",
    "service/api/open_inference/grpc/translation.py": "tests/service/api/open_inference/grpc/test_servicer.py",
    "service/api/open_inference/messages.py": "tests/service/api/open_inference/test_routes.py",
    "service/api/open_inference/metadata.py": "tests/service/api/open_inference/test_routes.py",
    "service/api/open_inference/statistics.py": "tests/service/api/open_inference/test_routes.py",
    "service/api/open_inference/tensor_inference.py": "tests/service/api/open_inference/test_routes.py",
    "service/api/open_inference/tensors.py": "tests/service/api/open_inference/test_routes.py",
    "service/api/predict.py": "tests/end_to_end/test_serving.py",
    "service/api/probes.py": "tests/end_to_end/test_serving.py",
    "service/api/response.py": "tests/service/api/test_exchange.py",
    "service/bulk/local.py": "tests/service/bulk/test_run.py",
    "service/bulk/parts.py": "tests/service/bulk/test_scoring.py",
    "service/client/answers.py": "tests/service/client/test_client.py",
    "service/client/asynchronous.py": "tests/service/client/test_client.py",
    "service/client/batches.py": "tests/service/client/test_classify.py",
    "service/client/blocking.py": "tests/service/client/test_client.py",
    "service/client/dialogs.py": "tests/service/client/test_client.py",
    "service/client/errors.py": "tests/service/client/test_client.py",
    "service/client/responses.py": "tests/service/client/test_client.py",
    "service/client/streams.py": "tests/service/client/test_classify.py",
    "service/client/wire.py": "tests/service/client/test_client.py",
    "service/commands/bench_report.py": "tests/service/commands/test_bench.py",
    "service/commands/environment.py": "tests/service/commands/test_asking.py",
    "service/commands/models.py": "tests/service/commands/test_asking.py",
    "service/commands/options.py": "tests/service/commands/test_asking.py",
    "service/commands/output.py": "tests/service/commands/test_results.py",
    "service/commands/predict.py": "tests/service/commands/test_asking.py",
    "service/commands/serve.py": "tests/service/test_settings.py",
    "service/contract/lister.py": "tests/service/contract/test_registry.py",
    "service/engine/peer.py": "tests/service/engine/test_worker.py",
    "service/engine/queues.py": "tests/service/engine/test_dispatcher.py",
    "service/http/server.py": "tests/service/http/test_connection.py",
    "service/images/decode_process.py": "tests/service/images/test_decode_pool.py",
    "service/images/exif.py": "tests/service/images/test_decode.py",
    "service/images/fitting.py": "tests/end_to_end/test_own_pictures.py",
    "service/images/flattening.py": "tests/end_to_end/test_own_pictures.py",
    "service/images/formats.py": "tests/service/images/test_decode.py",
    "service/images/mnist.py": "tests/service/images/test_decode.py",
    "service/model/outputs.py": "tests/service/model/test_model.py",
    "service/processes/http_process.py": "tests/end_to_end/test_processes.py",
    "service/processes/retrier_process.py": "tests/end_to_end/test_containment.py",
    "service/processes/server.py": "tests/end_to_end/test_processes.py",
    "service/processes/signals.py": "tests/service/processes/test_supervisor.py",
    "service/processes/sockets.py": "tests/service/api/open_inference/grpc/test_servicer.py",
    "service/processes/worker_process.py": "tests/end_to_end/test_processes.py",
    "service/rollout/retrier_child.py": "tests/service/rollout/test_retrier.py",
    "service/telemetry/line_writer.py": "tests/service/telemetry/test_request_log.py",
    "service/telemetry/metrics/exposition.py": "tests/service/telemetry/metrics/test_recorder.py",
    "service/telemetry/metrics/retention.py": "tests/service/telemetry/metrics/test_recorder.py",
    "service/telemetry/metrics/snapshots.py": "tests/service/telemetry/metrics/test_recorder.py",
    "service/telemetry/metrics/totals.py": "tests/service/telemetry/metrics/test_recorder.py",
    "service/telemetry/observer.py": "tests/end_to_end/test_observability.py",
    # Modules of training/: the commands are tested as a person types them.
    "training/__main__.py": "tests/training/cli/test_command_line.py",
    "training/cli/common.py": "tests/training/cli/test_command_line.py",
    "training/cli/list_recipes.py": "tests/training/cli/test_command_line.py",
    "training/cli/listing.py": "tests/training/cli/test_command_line.py",
    "training/cli/models.py": "tests/training/cli/test_command_line.py",
    "training/cli/options.py": "tests/training/cli/test_command_line.py",
    "training/cli/promote.py": "tests/training/cli/test_command_line.py",
    "training/cli/rollback.py": "tests/training/cli/test_command_line.py",
    "training/cli/run.py": "tests/training/test_job.py",
    "training/cli/show.py": "tests/training/cli/test_command_line.py",
    "training/cli/summary.py": "tests/training/cli/test_command_line.py",
    "training/cli/train.py": "tests/training/cli/test_command_line.py",
    "training/data/classes.py": "tests/training/cli/test_own_data.py",
    "training/data/downloads.py": "tests/training/data/test_sources.py",
    "service/commands/feedback.py": "tests/service/api/test_feedback.py",
    "training/networks/preprocessing.py": "tests/training/publishing/test_export.py",
    "training/networks/resnet.py": "tests/training/networks/test_weights.py",
    "training/publishing/card.py": "tests/training/publishing/test_report.py",
    "training/publishing/destination.py": "tests/training/cli/test_own_data.py",
    "training/publishing/latency.py": "tests/training/publishing/test_report.py",
    "training/publishing/plots.py": "tests/training/publishing/test_report.py",
    "training/publishing/promotion.py": "tests/training/test_job.py",
    "training/publishing/republish.py": "tests/training/cli/test_republish.py",
    "training/settings.py": "tests/training/cli/test_command_line.py",
}

WITHOUT = {
    "service/contract/variants.py": "a record without behaviour",
    "service/api/open_inference/schema.py": "records; test_routes.py beside its mirror sends all that breaks them",
    "service/engine/absent.py": "a record without behaviour",
    "service/engine/line_up.py": "two records without behaviour",
    "service/http/limits.py": "a record without behaviour",
    "service/problems.py": "records; tests/service/api check how each is answered",
    "training/errors.py": "exceptions; their exit codes are tested with the commands",
    "service/telemetry/metrics/families.py": "a table; end_to_end/test_observability.py compares it with /metrics",
}

OF_MORE_MODULES = {
    "tests/service/rollout/test_any_registry.py": "the way from damaged files to what HTTP processes are told",
    "tests/training/cli/test_own_data.py": "training on the user's own data, as a person types it",
    "tests/service/processes/test_simulation.py": "all of engine and processes, under random faults",
    "tests/service/processes/test_cuda_workers.py": "server and worker_process with LitServe's own device lists",
    "tests/training/networks/test_every_network.py": "what holds for every network, through export",
    "tests/training/test_cuda.py": "every recipe under FakeTensorMode, through all of training",
    "tests/service/client/test_classify.py": "classify() of both clients",
    "tests/service/client/test_client.py": "both clients against a real service",
}


def modules(half: str) -> list[str]:
    found = (ROOT / half).rglob("*.py")
    return sorted(str(path.relative_to(ROOT)) for path in found if path.name != "__init__.py")


def mirror_of(module: str) -> str:
    """The test file that a module's name asks for: service/__main__.py has tests/service/test_main.py."""
    path = Path(module)
    return str(Path("tests", path.parent, f"test_{path.stem.strip('_')}.py"))


@pytest.mark.parametrize("module", [*modules("service"), *modules("training")])
def test_every_module_has_a_mirror_of_its_name_or_a_stated_reason(module: str) -> None:
    has_own = (ROOT / mirror_of(module)).exists()
    elsewhere = ELSEWHERE.get(module)

    assert has_own or elsewhere or module in WITHOUT, f"{mirror_of(module)} must exist"
    assert not (has_own and (elsewhere or module in WITHOUT)), f"{module} no longer needs its line here"
    assert not elsewhere or (ROOT / elsewhere).exists()


def test_every_line_here_is_about_a_file_that_exists() -> None:
    for path in [*ELSEWHERE, *WITHOUT, *OF_MORE_MODULES]:
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("half", ["service", "training"])
def test_every_test_file_lies_where_its_module_does(half: str) -> None:
    expected = {mirror_of(module) for module in modules(half)}
    files = {str(path.relative_to(ROOT)) for path in (ROOT / "tests" / half).rglob("test_*.py")}

    assert files - expected - OF_MORE_MODULES.keys() == set()
