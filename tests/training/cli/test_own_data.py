"""Training on one's own pictures and tables: the first command works, and what cannot work is said before training."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from service.contract.registry import Registry
from service.images.decode import decode
from training import adaptation, pipeline
from training.cli.command_line import main
from training.cli.summary import interpreter
from training.networks import weights
from training.networks.whitened_net import WhitenedNet
from training.publishing import latency
from training.recipes import RECIPES, find

pytestmark = pytest.mark.usefixtures("plain_pictures")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRAINING_RUNS_DIR", "runs")
    monkeypatch.delenv("TRAINING_REGISTRY", raising=False)


def drawing(kind: int, seed: int, size: tuple[int, int] = (16, 16)) -> Image.Image:
    """An upright bar, a level bar or a frame, in a colour and on a ground that differ from picture to picture."""
    chance = np.random.default_rng((kind, seed))
    pixels = np.full((16, 16, 3), chance.integers(0, 90, 3), np.uint8)
    at, colour = int(chance.integers(3, 11)), chance.integers(150, 256, 3)
    if kind == 0:
        pixels[2:14, at : at + 3] = colour
    elif kind == 1:
        pixels[at : at + 3, 2:14] = colour
    else:
        pixels[2:14, 2:14] = colour
        pixels[4:12, 4:12] = 0
    return Image.fromarray(pixels).resize(size)


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def own(root: Path, per_class: int = 60, classes: int = 3) -> Path:
    for kind in range(classes):
        (root / "abc"[kind]).mkdir(parents=True)
        for n in range(per_class):
            (root / "abc"[kind] / f"{n:03}.png").write_bytes(png(drawing(kind, n)))
    return root


def table(content: str | bytes, name: str = "t.csv") -> Path:
    path = Path(name)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


ROWS = "".join(f"{i % 7},{i},{'ab'[i % 2]}\n" for i in range(60))


# The first command


def test_180_pictures_in_three_classes_are_learnt_and_published_without_further_options(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = find("cifar10")
    narrow = replace(recipe, network=lambda shape, classes: WhitenedNet(shape[0], classes, (16, 32, 32)))
    monkeypatch.setitem(RECIPES, "cifar10", narrow)
    own(Path("my pictures"))

    with caplog.at_level("INFO"):
        code = main(["train", "cifar10", "--data", "folder:my pictures", "--publish", "--name", "mine"])

    shown = capsys.readouterr()
    assert code == 0, shown.err
    assert re.search(
        r"chosen for 144 examples: epochs 43, batch size 16, lr 0\.56, .*held out 0\.2, patience 21", caplog.text
    )
    assert re.search(r"kept epoch \d+ of \d+, whose validation loss is the lowest", caplog.text)
    lines = [line for line in shown.out.splitlines() if line.startswith("epoch")]
    assert all(
        re.search(r"loss [\d.]+  accuracy +[\d.]+%  validation [\d.]+ +[\d.]+%  [\d.]+ s$", line) for line in lines
    )
    assert max(map(len, lines)) <= 80
    manifest = Registry("my-models").manifest("mine", 1)
    assert manifest.classes == ("a", "b", "c")
    assert "python -m training train cifar10 --data folder:PATH --name mine --epochs 43" in (
        Registry("my-models").file("mine", 1, "card.md").decode()
    )
    assert f"{interpreter()} -m service --registry my-models" in shown.out
    asked = shlex.split(next(line for line in shown.out.splitlines() if line.startswith("ask it:")))
    example = Path(asked[asked.index("--data-binary") + 1].removeprefix("@"))
    assert asked[-1] == "localhost:8000/predict?model=mine"
    assert decode(example.read_bytes(), manifest.input, max_pixels=10**6) == decode(  # type: ignore[arg-type]
        Path("my pictures/a/000.png").read_bytes(),
        manifest.input,  # type: ignore[arg-type]
        max_pixels=10**6,
    )


def test_a_table_is_learnt_and_its_hint_asks_about_its_first_test_row(capsys: pytest.CaptureFixture[str]) -> None:
    table("x,y,kind\n" + "".join(f"{i % 10 - 5},{i % 3},{'up' if i % 10 > 5 else 'down'}\n" for i in range(120)))

    code = main(["train", "simple_net", "--data", "csv:t.csv", "--publish"])

    shown = capsys.readouterr()
    assert code == 0, shown.err
    asked = shlex.split(next(line for line in shown.out.splitlines() if line.startswith("ask it:")))
    assert json.loads(asked[asked.index("--json") + 1]) == {"features": [[-5.0, 0.0]]}


def test_what_was_not_published_is_by_the_command_that_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    table(
        "x,y,kind\n" + "".join(f"{i % 10 - 5},{i % 3},{'up' if i % 10 > 5 else 'down'}\n" for i in range(120)),
        "a b.csv",
    )
    main(["train", "simple_net", "--data", "csv:a b.csv"])
    hint = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("not published"))

    words = shlex.split(hint.partition("To publish it: ")[2])

    assert words[:3] == [interpreter(), "-m", "training"]
    assert main(words[3:]) == 0
    shown = capsys.readouterr().out
    assert "epoch" not in shown  # it resumed at the end
    assert Registry("my-models").versions("simple_net-csv") == [1]


def test_the_interpreter_is_named_by_its_path_where_it_is_not_the_shells_python(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    inside = interpreter()
    monkeypatch.setenv("PATH", "/nowhere")

    assert (inside, interpreter()) == ("python", sys.executable)
    monkeypatch.setattr(sys, "executable", str(Path.cwd() / ".venv/bin/python"))
    assert interpreter() == ".venv/bin/python"


def test_a_run_starts_from_pretrained_weights_in_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adaptation, "STEPS", 1)
    monkeypatch.setattr(latency, "BATCH_SIZES", (1,))
    file = resnet(Path("resnet.pth"))
    own(Path("own"), per_class=8, classes=2)
    command = ["train", "cifar10", "--data", "folder:own", "--pretrained", str(file), "--size", "64", "--epochs", "1"]

    code = main([*command, "--publish", "--force"])

    manifest = Registry("my-models").manifest("cifar10-folder", 1)
    assert code == 0
    assert manifest.input.shape == (3, 64, 64)
    name = manifest.provenance.hyper_parameters["pretrained"]
    card = Registry("my-models").file("cifar10-folder", 1, "card.md").decode()
    assert re.fullmatch(r"resnet18-[0-9a-f]{8}", str(name))
    assert f"ResNet-18, from the weights {name}. 2 classes" in card
    assert "train cifar10 --data folder:PATH --pretrained FILE --epochs 1 " in card


def resnet(file: Path) -> Path:
    from torchvision.models import resnet18

    torch.save(resnet18(weights=None).state_dict(), file)
    return file


def test_pretrained_weights_are_downloaded_by_torchvision_and_where_that_fails_a_file_is_asked_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    asked: list[str] = []

    def offline(url: str, *_: object, **__: object) -> None:
        asked.append(url)
        raise OSError("no network")

    monkeypatch.setattr("torch.hub.download_url_to_file", offline)
    own(Path("own"), per_class=20)

    code = main(["train", "cifar10", "--data", "folder:own", "--pretrained"])

    said = capsys.readouterr().err
    assert code == 1
    assert Path(asked[0]).stem == weights.OFFICIAL
    assert said == (
        f"error: the weights must be downloadable from {asked[0]}. Given: no network. Download that file where there "
        "is a network, and name it: --pretrained FILE\n"
    )


# Chance and divergence


def test_a_network_that_guesses_is_refused_and_force_publishes_it(capsys: pytest.CaptureFixture[str]) -> None:
    chance = np.random.default_rng(0)
    table("x,y,kind\n" + "".join(f"{chance.normal():.3f},{chance.normal():.3f},{'abc'[i % 3]}\n" for i in range(180)))
    command = ["train", "simple_net", "--data", "csv:t.csv", "--publish", "--epochs", "5"]

    code = main(command)

    said = capsys.readouterr().err
    assert code == 1
    assert re.search(
        r"error: accuracy on t/test must be significantly above the 33\.33% of its most frequent class "
        r"\(binomial test, p at most 0\.05\)\. Given: [\d.]+% of 36, p = 0\.[\d]+\. Nothing was published\.",
        said,
    )
    assert "what may help: more examples, --epochs 10" in said
    words = shlex.split(said.partition("To publish it all the same: ")[2])
    assert words[-2:] == ["--resume", "--force"]
    assert main(words[3:]) == 0
    assert "significantly" in str(Registry("my-models").manifest("simple_net-csv", 1).forced)


DIVERGING = ["neural_net", "--data", "digits", "--lr", "10", "--epochs", "6"]


def test_a_run_that_diverges_fails_says_so_and_suggests_a_smaller_rate(capsys: pytest.CaptureFixture[str]) -> None:
    codes = main(["train", *DIVERGING]), main(["train", *DIVERGING, "--publish", "--resume"])

    said = capsys.readouterr()
    remedy = (
        r"the run diverged: its training loss ended at [\d.e+]+, where guessing gives 2\.3\. "
        r"Try a smaller learning rate: --lr 0\.01"
    )
    assert codes == (1, 1)
    assert "not published" not in said.out
    assert re.search(rf"^error: {remedy}\n{remedy}\nerror: accuracy on digits/test must be", said.err, re.MULTILINE)


def test_a_run_that_diverges_and_is_published_by_force_has_not_failed(capsys: pytest.CaptureFixture[str]) -> None:
    # With a rate of 10 its logits are hundreds, of which some processors round the last digits by more than 0.001.
    code = main(["train", *DIVERGING, "--lr", "2", "--publish", "--force"])

    said = capsys.readouterr()
    assert code == 0
    assert "the run diverged" in said.err
    assert "published neural_net-digits@1 by force" in said.out


@pytest.mark.parametrize("rate", ["10", "1e30"])
def test_a_job_that_diverges_would_do_so_again(rate: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["run", *DIVERGING, "--lr", rate, "--commit", "abc"])

    assert code == 3
    assert "Try a smaller l" in capsys.readouterr().err


# What cannot work


def pictures_of(**counts: int) -> Callable[[], None]:
    def make() -> None:
        for name, count in counts.items():
            (Path("own") / name).mkdir(parents=True)
            for n in range(count):
                (Path("own") / name / f"{n}.png").write_bytes(png(drawing(0, n)))

    return make


def pipe() -> None:
    pictures_of(a=10, b=10)()
    os.mkfifo("own/a/bad.png")


def broken(content: bytes, name: str = "bad.png") -> Callable[[], None]:
    def make() -> None:
        pictures_of(a=10, b=10)()
        (Path("own") / "a" / name).write_bytes(content)

    return make


def renamed() -> None:
    pictures_of(a=10, b=10)()
    os.rename(b"own/b", b"own/caf\xe9")  # noqa: PTH104 - bytes


def dangling() -> None:
    pictures_of(a=10, b=10)()
    Path("own/a/link.png").symlink_to("nowhere.png")


def a_file() -> None:
    pictures_of(a=20, b=20)()
    Path("file").write_text("")


def rows(text: str | bytes) -> Callable[[], object]:
    return lambda: table(text)


FOLDER = "xigua --data folder:own"
CSV = "simple_net --data csv:t.csv"


@pytest.mark.parametrize(
    ("prepare", "command", "message"),
    [
        # recipes that do not fit the data
        (
            None,
            "mnist --data moons",
            r"mnist must be given images\. Given: moons, which has features; use one of .*simple_",
        ),
        (
            rows("x,y,k\n" + ROWS),
            "xigua --data csv:t.csv",
            r"xigua must be given images\. Given: t, which has features",
        ),
        (None, "simple_net --data digits", r"simple_net must be given features\. Given: digits, which has images"),
        (pictures_of(a=9, b=9), "simple_net --data folder:own", r"simple_net must be given features"),
        (
            None,
            "neural_net --data digits --size 64",
            r"size must be given with data of the kind folder:PATH\. Given: 64",
        ),
        (pictures_of(a=9, b=9), f"{FOLDER} --size 64", r"size must be given with one of mnist, .* Given: xigua"),
        (
            pictures_of(a=9, b=9),
            "cifar10 --data folder:own --size 50",
            r"size must be 0, 64, 96, 128 or 224\. Given: 50",
        ),
        (
            None,
            "neural_net --data digits --small-share 0.5",
            r"small_share must be given with one of mnist, .*, which pool globally\. Given: neural_net",
        ),
        (None, "simple_net --small-share 0.5", r"small_share must be given with one of mnist, .* Given: simple_net"),
        (
            pictures_of(a=9, b=9),
            "mnist --data folder:own --fit crop",
            r"fit must be given with photographs\. Given: crop with own, whose ink is centred",
        ),
        (None, "simple_net --fit crop", r"fit must be given with photographs\. Given: crop with moons, .* features"),
        (pictures_of(a=9, b=9), "mnist --data folder:own --pretrained", r"pretrained must be .*photographs: cifar10, "),
        (
            None,
            "cifar10 --data digits --pretrained",
            r"pretrained must be given with --data folder:PATH\. Given: digits",
        ),
        (a_file, "cifar10 --data folder:own --pretrained file", r"pretrained must be .*state_dict of .*Given: file"),
        (
            a_file,
            "cifar10 --data folder:own --pretrained none",
            r"pretrained must be a file that can be read, .* Given: none, which is not there",
        ),
        (
            None,
            "neural_net --data digits --pretrained models/neural_net/99",
            r"pretrained must be .* the folder of a version .* Given: models/neural_net/99, which is not there",
        ),
        (pictures_of(a=9, b=9), f"{FOLDER} --patience 3 --held-out 0", r"patience must be given with held_out above 0"),
        # folders
        (None, FOLDER, r"own must be a folder of folders that can be read\. Given: .*No such file"),
        (a_file, "xigua --data folder:file", r"file must be a folder of folders that can be read\. Given: .*Not a dir"),
        (lambda: Path("own").mkdir(), FOLDER, r"own must hold two or more classes, .* Given: none"),
        (
            pictures_of(a=9),
            FOLDER,
            r"own must hold two or more classes, each a folder of pictures.* Given: one class, a",
        ),
        (pictures_of(a=9, b=9, rare=1), FOLDER, r"each class in own must have 2 examples or more.* Given: one of rare"),
        (pictures_of(a=1, b=1), FOLDER, r"Given: one of a, b"),
        (pictures_of(a=9, b=1, c=1, d=1, e=1), FOLDER, r"Given: one of b, c, d and 1 more"),
        (
            pictures_of(a=5, b=5),
            f"{FOLDER} --publish",
            r"own/test must have examples enough to tell .* Given: 2, of which",
        ),
        (renamed, FOLDER, r"the name of a class in own must be UTF-8\. Given: b'caf\\xe9'\. Rename it"),
        # pictures
        (broken(b"hello"), FOLDER, r"own/a/bad\.png must be a picture: .*Given: 5 bytes that look like text"),
        (pipe, FOLDER, r"own/a/bad\.png must be a picture that can be read\. Given: something else than a file"),
        (broken(b""), FOLDER, r"own/a/bad\.png must be a picture: the image must .*0 bytes"),
        (broken(png(drawing(0, 0))[:-60]), FOLDER, r"own/a/bad\.png must be a picture: .*whole PNG"),
        (broken(png(drawing(0, 0))[:20]), FOLDER, r"own/a/bad\.png must be a picture"),
        (
            broken(b"II*\0garbage", "bad.tif"),
            FOLDER,
            r"own/a/bad\.tif must be a picture: .* that look like a TIFF image",
        ),
        (dangling, FOLDER, r"own/a/link\.png must be a picture that can be read\. Given: .*No such file"),
        # tables
        (None, CSV, r"t\.csv must be a CSV file with a header, in UTF-8\. Given: .*No such file"),
        (rows("x,y,kind\n" + ROWS + "1,2,\n"), CSV, r"t\.csv must have a label in every row\. Given: '' in row 62"),
        (rows("x,y,kind\n" + ROWS + "\n1,2,NaN\n"), CSV, r"a label in every row\. Given: 'NaN' in row 63"),
        (rows("x,y,kind\n" + ROWS + "nan,2,a\n"), CSV, r"finite numbers .*kind\. Given: 'nan' in row 62"),
        (rows("x,y,kind\n" + ROWS + ",2,a\n"), CSV, r"finite numbers .*kind\. Given: '' in row 62"),
        (rows("x,y,kind\n" + ROWS + "1e39,2,a\n"), CSV, r"finite numbers .*kind\. Given: '1e39' in row 62"),
        (rows("x,y,kind\n" + ROWS + "1,a\n"), CSV, r"3 columns in every row\. Given: 2 in row 62"),
        (
            rows("x,kind\n" + "".join(f"{i},{i}.5\n" for i in range(20))),
            CSV,
            r"2 examples or more.*Given: one of 0\.5, 1\.5",
        ),
        (
            rows("x,kind\n1,a\n2,a\n"),
            CSV,
            r"two or more classes, each two or more rows of the column kind\. Given: one class",
        ),
        (
            pictures_of(a=9, b=9),
            f"{FOLDER} --runs-dir own/runs",
            r"runs_dir must not be among the pictures\. Given: own/runs, in .*/own\. Name another folder",
        ),
        (
            pictures_of(a=9, b=9),
            f"{FOLDER} --publish --registry own/models",
            r"registry must not be among the pictures\. Given: own/models",
        ),
        (rows("kind\na\nb\n"), CSV, r"one or more of numbers, separated by commas\. Given: 'kind' alone"),
        (rows("x;kind\n1,5;a\n"), CSV, r"one or more of numbers, separated by commas\. Given: 'x;kind' alone"),
        (rows("k,x,k\n" + ROWS), f"{CSV}:k", r"the label must be one column of t\.csv\. Given: k, as 2 are called"),
        (rows("x,y,kind\n" + ROWS + "1_0,2,a\n"), CSV, r"finite numbers .*kind\. Given: '1_0' in row 62"),
        (rows('x,y,kind\n1,2,"a\n' + ROWS), CSV, r"Given: one class, a 0,0,a 1,1,b 2,2,a .*\.\.\.$"),
        (rows("x,kind\n1," + "a" * 200_000 + "\n"), CSV, r"CSV file .*Given: field larger than field limit"),
        (rows(b"x,kind\n1,caf\xe9\n"), CSV, r"in UTF-8\. Given: .*can't decode byte 0xe9"),
        (rows(b"x,kind\n1,\0\n"), CSV, r"t\.csv must"),
        (
            rows("x,kind\n" + "".join(f"{i},{'ab'[i % 2] * 1001}\n" for i in range(60))),
            CSV,
            r"the name of a class in t\.csv must have at most 1000 characters\. Given: 1001, aaaa",
        ),
        (
            rows("x" * 1001 + ",kind\n" + "".join(f"{i},{'ab'[i % 2]}\n" for i in range(60))),
            CSV,
            r"the name of a column in t\.csv must have at most 1000 characters\. Given: 1001, xxxx",
        ),
        (rows("x,kind\n"), CSV, r"a header and rows\. Given: a header alone"),
        (rows(""), CSV, r"a header and rows\. Given: nothing"),
        # folders to write to
        (
            a_file,
            "neural_net --data digits --runs-dir file/runs",
            r"runs_dir must be a folder to write to\. Given: .*file/runs",
        ),
        (None, "neural_net --data digits --runs-dir /proc/nope", r"runs_dir must be a folder to write to\. Given: "),
        (
            a_file,
            "neural_net --data digits --publish --registry file",
            r"registry must be a folder to write to\. Given: ",
        ),
        (None, "neural_net --data digits --publish --registry /proc/nope", r"registry must be a folder to write to"),
        (
            None,
            "neural_net --data digits --publish --registry a,b",
            r"registry must be one folder or URL, to publish to",
        ),
    ],
)
def test_what_cannot_work_fails_before_training_with_code_2_and_one_sentence(
    prepare: Callable[[], object] | None,
    command: str,
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pipeline, "train", lambda *_, **__: pytest.fail("it trained"))
    if prepare is not None:
        prepare()

    code = main(["train", *command.split()])

    said = capsys.readouterr()
    assert (code, said.out) == (2, ""), said.err
    assert re.match(f"error: .*{message}", said.err)
    assert said.err.count("\n") == 1


def test_a_job_refuses_the_same_before_training(capsys: pytest.CaptureFixture[str]) -> None:
    pictures_of(a=9)()

    assert main(["run", "xigua", "--data", "folder:own"]) == 2
    assert "Given: one class, a" in capsys.readouterr().err


def test_what_tools_leave_behind_is_no_class_and_no_picture() -> None:
    pictures_of(a=20, b=20)()
    for hidden in (".git", ".ipynb_checkpoints", "__MACOSX"):
        (Path("own") / hidden).mkdir()
        (Path("own") / hidden / "1.png").write_bytes(png(drawing(0, 0)))
    Path("own/a/._1.png").write_bytes(bytes(100))
    Path("own/a/Thumbs.db").write_bytes(bytes(100))

    code = main(["train", "xigua", "--data", "folder:own", "--epochs", "1", "--publish", "--force"])

    assert code == 0
    assert Registry("my-models").manifest("xigua-folder", 1).classes == ("a", "b")


def test_pictures_to_test_on_that_are_trained_on_too_are_told(caplog: pytest.LogCaptureFixture) -> None:
    pictures_of(a=10, b=10)()
    shutil.copytree("own", "both/train")
    shutil.copytree("own", "both/test")
    (Path("both") / "test" / "a" / "new.png").write_bytes(png(drawing(1, 99)))

    assert main(["train", "simple_nn", "--data", "folder:both", "--limit", "1", "--epochs", "1"]) == 0
    assert "20 of the 21 pictures of both/test are among those to train on: its figures will be too good" in caplog.text


def test_runs_and_models_may_lie_beside_train_and_test() -> None:
    pictures_of(a=9, b=9)()
    Path("own").rename("train")
    shutil.copytree("train", "test")
    simple = ["train", "simple_nn", "--data", "folder:.", "--limit", "1", "--epochs", "1", "--publish", "--force"]

    assert main([*simple, "--runs-dir", "runs", "--registry", "models"]) == 0


def test_values_far_from_those_that_were_learnt_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    # The first of each five rows of a class is for testing, and the fifth of the others is held out.
    values = ["3e38" if i // 2 % 25 == 6 else str(i % 7) for i in range(200)]
    rows = "".join(f"{','.join([value] * 40)},{'ab'[i % 2]}\n" for i, value in enumerate(values))
    table(f"{','.join(map(str, range(40)))},kind\n{rows}")

    code = main(["train", "simple_nn", "--data", "csv:t.csv", "--epochs", "1", "--publish", "--force"])

    assert code == 1
    assert (
        "error: the network must give finite numbers for every input of t/held-out. Given: " in capsys.readouterr().err
    )


def test_excels_byte_order_mark_is_no_part_of_the_first_column() -> None:
    table(b"\xef\xbb\xbfkind,x\n" + b"".join(b"%c,%d\n" % (b"ab"[i % 2], i % 2) for i in range(60)))

    assert main(["train", "simple_net", "--data", "csv:t.csv:kind", "--epochs", "1"]) == 0
