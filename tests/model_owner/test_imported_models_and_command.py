"""A model's way into the data folder, back out of it, and through the command line."""

import hashlib
import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from contract.errors import ConfigurationError, ModelFileError
from contract.model_card import Arithmetic, OutputPolicy
from contract.ticket import Engine
from model_owner import command
from model_owner.checking import check_model, draw_random_images
from model_owner.imported_models import ImportedModels
from secure_computation.at_rest import StorageKey
from secure_computation.engines.choosing import offered_engines, output_of
from secure_computation.engines.masked.plan.steps import LinearStep, SumPoolStep
from secure_computation.plan import parse_plan
from tests.end_to_end.models import DITHER
from tests.model_owner.graphs import build, card_for, floats, node

KEY = StorageKey(bytes(range(32)))


def tiny_model() -> onnx.ModelProto:
    tensors = {"w": floats(4, 1, 3, 3), "b": floats(4, seed=1), "head": floats(4, 3, seed=2)}
    nodes = [
        node("Conv", ["image", "w", "b"], "c", strides=[2, 2]),
        node("Relu", ["c"], "r"),
        node("GlobalAveragePool", ["r"], "p"),
        node("Flatten", ["p"], "f"),
        node("Gemm", ["f", "head"], "logits"),
    ]
    return build(nodes, tensors, size=(1, 12, 10))


def write_model(folder: Path, **card_changes: Any) -> tuple[Path, Path]:
    folder.mkdir(exist_ok=True)
    model, card = folder / "given.onnx", folder / "card.json"
    model.write_bytes(tiny_model().SerializeToString())
    card.write_text(card_for(model, height=12, width=10, class_count=3, **card_changes).model_dump_json())
    return model, card


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with one imported model; tests that change it take a copy."""
    folder = tmp_path_factory.mktemp("imported")
    ImportedModels(folder / "data", KEY).add(*write_model(folder / "given"))
    return folder / "data"


def run(*arguments: str | Path) -> int:
    """Exit status of the command line, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["model-owner", *(str(argument) for argument in arguments)])
        with pytest.raises(SystemExit) as left:
            command.main()
    return int(left.value.code or 0)


def test_an_imported_model_is_private_and_loads_again(imported: Path) -> None:
    stored = imported / "models" / "tiny" / "1.0.0"
    files = sorted(str(path.relative_to(stored)) for path in stored.rglob("*") if path.is_file())
    assert files == ["card.json", "manifest.json", "onnx.sealed", "plan.json", "weights.sealed"]
    everything = [imported / "models", *(imported / "models").rglob("*")]
    assert {path.stat().st_mode & 0o777 for path in everything if path.is_file()} == {0o600}
    assert {path.stat().st_mode & 0o777 for path in everything if path.is_dir()} == {0o700}
    model = ImportedModels(imported, KEY).load()
    assert model.card.name == "tiny"
    assert model.plan.network.classes == 3
    assert "withheld" in repr(model.weights)
    assert " weights=" not in repr(model)


def test_the_public_plan_holds_no_weight(imported: Path) -> None:
    """The network and the crypten lowering do not depend on the weights at all: another model of the same shape has
    the same. Of the masked lowering, only whole bits do: each scale is a power of two times public pool sizes.
    """
    other = tiny_model()
    for tensor in other.graph.initializer:
        tensor.raw_data = bytes(len(tensor.raw_data))
    folder = imported.parent / "other"
    folder.mkdir()
    (folder / "given.onnx").write_bytes(other.SerializeToString())
    card = card_for(folder / "given.onnx", height=12, width=10, class_count=3, version="2.0.0")
    (folder / "card.json").write_text(card.model_dump_json())
    added = ImportedModels(folder / "data", KEY).add(folder / "given.onnx", folder / "card.json").plan
    plan = parse_plan((imported / "models" / "tiny" / "1.0.0" / "plan.json").read_bytes())
    assert (added.network, added.engines.crypten) == (plan.network, plan.engines.crypten)
    assert plan.engines.masked is not None
    divisors = [step.divisor for step in plan.engines.masked.steps if isinstance(step, SumPoolStep)]
    factors = {float(a) / b for a in (1, *divisors, math.prod(divisors)) for b in (1, *divisors, math.prod(divisors))}
    for step in plan.engines.masked.steps:
        scales = [step.value.scale, *([step.weight_scale] if isinstance(step, LinearStep) else [])]
        for scale in scales:
            assert any(math.isclose(math.log2(scale / factor) % 1, 0, abs_tol=1e-9) for factor in factors), step.name


def test_a_version_is_imported_once_and_the_newest_is_loaded(imported: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(imported, data)
    registry = ImportedModels(data, KEY)
    with pytest.raises(ModelFileError, match="imported already: give a changed model a new version"):
        registry.add(*write_model(tmp_path / "again"))
    registry.add(*write_model(tmp_path / "newer", version="1.10.0"))
    registry.add(*write_model(tmp_path / "older", version="1.9.0"))
    assert registry.versions() == {"tiny": ("1.0.0", "1.9.0", "1.10.0")}
    assert registry.load("tiny").card.version == "1.10.0"
    assert registry.load("tiny", "1.9.0").card.version == "1.9.0"


@pytest.mark.parametrize(
    ("name", "version"), [("absent", None), ("tiny", "3.0.0"), ("../models/tiny", None), ("tiny", "../tiny/1.0.0")]
)
def test_a_version_that_is_not_there(imported: Path, name: str, version: str | None) -> None:
    with pytest.raises(ModelFileError, match=r"is not imported: import it, or name one of tiny 1\.0\.0"):
        ImportedModels(imported, KEY).load(name, version)


def test_one_of_several_models_is_to_be_named(imported: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(imported, data)
    shutil.copytree(data / "models" / "tiny", data / "models" / "other")
    with pytest.raises(ModelFileError, match=r"several models are imported: name one of other 1\.0\.0, tiny 1\.0\.0"):
        ImportedModels(data, KEY).load()


def test_nothing_is_imported_yet(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="no model is imported in this data folder: import one first"):
        ImportedModels(tmp_path, KEY).load()


def flip_last_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_weights_are_sealed(imported: Path, tmp_path: Path) -> None:
    """No row of any tensor stands in a file, and neither another key nor another version's files open them."""
    stored = imported / "models" / "tiny" / "1.0.0"
    everything = b"".join(path.read_bytes() for path in stored.rglob("*") if path.is_file())
    for name, tensor in ImportedModels(imported, KEY).load().weights.items():
        assert tensor.reshape(-1)[:6].tobytes() not in everything, name
    with pytest.raises(ConfigurationError, match="sealed under another key"):
        ImportedModels(imported, StorageKey(bytes(32))).load()
    shutil.copytree(imported, tmp_path / "data")
    ImportedModels(tmp_path / "data", KEY).add(*write_model(tmp_path / "newer", version="2.0.0"))
    old, new = (tmp_path / "data" / "models" / "tiny" / version for version in ("1.0.0", "2.0.0"))
    shutil.copy(old / "weights.sealed", new / "weights.sealed")
    manifest = json.loads((new / "manifest.json").read_text())
    manifest["sha256"]["weights.sealed"] = json.loads((old / "manifest.json").read_text())["sha256"]["weights.sealed"]
    (new / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ModelFileError, match="was changed, cut short or moved"):
        ImportedModels(tmp_path / "data", KEY).load()


@pytest.mark.parametrize("keys", ["none", "two", "not a key", "readable by others"])
def test_an_import_needs_one_key(
    keys: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model, card = write_model(tmp_path / "given")
    file = tmp_path / "key"
    file.write_text("CANARY" if keys == "not a key" else "5a" * 32)
    file.chmod(0o644 if keys == "readable by others" else 0o600)
    if keys != "two":
        monkeypatch.delenv("MODEL_OWNER_AT_REST__KEY")
    arguments = () if keys == "none" else ("--key-file", file)
    assert run("import", model, "--card", card, "--data-folder", tmp_path / "data", *arguments) == 5
    written = capsys.readouterr().err
    assert "key" in written
    assert "CANARY" not in written
    assert not (tmp_path / "data").exists()


def forget_weights(path: Path) -> None:
    content = json.loads(path.read_text())
    del content["sha256"]["weights.sealed"]
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        *(
            (name, flip_last_byte)
            for name in ("card.json", "plan.json", "weights.sealed", "onnx.sealed", "manifest.json")
        ),
        *((name, Path.unlink) for name in ("card.json", "plan.json", "weights.sealed", "onnx.sealed")),
        ("manifest.json", forget_weights),
    ],
)
def test_a_stored_file_that_changed(imported: Path, tmp_path: Path, file: str, damage: Callable[[Path], None]) -> None:
    shutil.copytree(imported, tmp_path / "data")
    damage(tmp_path / "data" / "models" / "tiny" / "1.0.0" / file)
    with pytest.raises(ModelFileError, match="changed since the import: delete the folder and import the model again"):
        ImportedModels(tmp_path / "data", KEY).load()


def test_a_model_that_an_earlier_version_imported_is_refused_by_its_name(imported: Path, tmp_path: Path) -> None:
    shutil.copytree(imported, tmp_path / "data")
    folder = tmp_path / "data" / "models" / "tiny" / "1.0.0"
    earlier = re.sub(rb'"format":\d+', b'"format":1', (folder / "plan.json").read_bytes(), count=1)
    (folder / "plan.json").write_bytes(earlier)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["sha256"]["plan.json"] = hashlib.sha256(earlier).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ModelFileError, match=r"^tiny 1\.0\.0: plan was made by another version of this program"):
        ImportedModels(tmp_path / "data", KEY).load()


def test_a_refused_import_leaves_nothing(tmp_path: Path) -> None:
    model, card = write_model(tmp_path / "given", model_sha256="0" * 64)
    with pytest.raises(ModelFileError):
        ImportedModels(tmp_path / "data", KEY).add(model, card)
    assert not (tmp_path / "data").exists()


def test_external_data_is_stored_too(tmp_path: Path) -> None:
    """The stored copy keeps its external file, so that onnxruntime still runs it."""
    folder = tmp_path / "given"
    (folder / "weights").mkdir(parents=True)
    path = folder / "given.onnx"
    onnx.save_model(tiny_model(), path, save_as_external_data=True, location="weights/data.bin", size_threshold=0)
    from model_owner.onnx_import.reading import read_onnx

    card = card_for(path, height=12, width=10, class_count=3, model_sha256=read_onnx(path).sha256)
    (folder / "card.json").write_text(card.model_dump_json())
    added = ImportedModels(tmp_path / "data", KEY).add(path, folder / "card.json")
    path.unlink()
    (folder / "weights" / "data.bin").unlink()
    assert sorted(file.name for file in added.folder.iterdir()) == [
        *("card.json", "manifest.json", "onnx.sealed", "plan.json", "weights.sealed")
    ]
    assert check_model(ImportedModels(tmp_path / "data", KEY).load()).max_abs_error < 1e-4


def test_check_reports_ranges_cost_and_gap(imported: Path) -> None:
    report = check_model(ImportedModels(imported, KEY).load())
    assert [layer.kind for layer in report.layers] == [
        "convolution2d", "relu", "global_average_pool", "reshape", "fully_connected",
    ]  # fmt: skip
    assert report.layers[0].weights == 4 * 9 + 4
    assert report.layers[0].multiplications == 4 * 5 * 4 * 9
    assert report.layers[1].smallest == 0.0 < report.layers[1].largest == report.layers[0].largest
    assert 0 < report.max_abs_error < 1e-4
    assert report.labels_agree == report.samples == 4
    masked, crypten = report.costs
    assert {(one.engine.value, one.link.name) for one in report.predictions} >= {("masked", "wan"), ("crypten", "lan")}
    assert (masked.engine, crypten.engine) == ("masked", "crypten")
    assert masked.one_way_trips == 4  # the image, an opening and its answer, the output
    assert crypten.online_bytes > 2 * 8 * (4 * 5 * 4)  # at least one 64-bit opening for each ReLU
    assert crypten.online_bytes > 10 * masked.online_bytes
    assert report.fixed_point is not None
    assert report.fixed_point.max_abs_error is not None
    assert report.fixed_point.max_abs_error < DITHER
    assert (report.fixed_point.labels_agree, report.fixed_point.out_of_range) == (4, None)


def test_a_model_that_the_masked_engine_cannot_take_is_served_by_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_arguments: object, **_options: object) -> None:
        raise ModelFileError("layer 'c' needs 33 bits: scale it down")

    monkeypatch.setattr("model_owner.imported_models.lower_within_budget", refuse)
    added = ImportedModels(tmp_path / "data", KEY).add(*write_model(tmp_path / "given"))
    assert offered_engines(added.plan) == (Engine.CRYPTEN,)
    assert "layer 'c' needs 33 bits" in caplog.text
    report = check_model(added)
    assert report.fixed_point is None
    assert [cost.engine for cost in report.costs] == ["crypten"]
    with pytest.raises(ModelFileError, match="33 bits"):
        ImportedModels(tmp_path / "other", KEY).add(*write_model(tmp_path / "labels", output_policy="label-only"))
    with pytest.raises(ModelFileError, match="33 bits"):
        ImportedModels(tmp_path / "other", KEY).add(
            *write_model(tmp_path / "maps", output_policy="logits-and-heat-map")
        )


def test_a_card_that_allows_heat_maps_has_a_plan_that_opens_them(tmp_path: Path) -> None:
    added = ImportedModels(tmp_path / "data", KEY).add(
        *write_model(tmp_path / "given", output_policy="logits-and-heat-map")
    )
    assert output_of(added.plan) is OutputPolicy.LOGITS_AND_HEAT_MAP
    masked = added.plan.engines.masked
    assert masked is not None
    assert masked.heat_map is not None
    assert masked.heat_map.shape == (3, 5, 4)
    report = check_model(added)
    assert report.fixed_point is not None
    assert report.fixed_point.max_abs_error is not None


def test_a_network_without_the_head_that_a_heat_map_needs_is_refused(tmp_path: Path) -> None:
    model = build(
        [node("Conv", ["image", "w"], "c"), node("GlobalAveragePool", ["c"], "p"), node("Flatten", ["p"], "logits")],
        {"w": floats(3, 1, 3, 3)},
        size=(1, 12, 10),
    )
    path, card = tmp_path / "given.onnx", tmp_path / "card.json"
    path.write_bytes(model.SerializeToString())
    for policy, refused in (("logits-and-heat-map", True), ("logits", False)):
        given = card_for(path, height=12, width=10, class_count=3, output_policy=policy)
        card.write_text(given.model_dump_json())
        with pytest.raises(ModelFileError, match="a heat map needs") if refused else nullcontext():
            ImportedModels(tmp_path / policy, KEY).add(path, card)


def test_random_images_are_pictures_and_always_the_same(imported: Path) -> None:
    card = ImportedModels(imported, KEY).load().card
    images = draw_random_images(card.input)
    np.testing.assert_array_equal(images, draw_random_images(card.input))
    pixels = images * card.input.standard_deviation[0] + card.input.mean[0]
    assert pixels.min() >= -1e-6
    assert pixels.max() <= 1 + 1e-6


@pytest.fixture(autouse=True)
def storage_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """As an operator would export it."""
    monkeypatch.setenv("MODEL_OWNER_AT_REST__KEY", bytes(range(32)).hex())


def test_command_line_from_import_to_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    model, card = write_model(tmp_path / "given")
    data = tmp_path / "data"
    assert run("import", model, "--card", card, "--data-folder", data) == 0
    assert capsys.readouterr().err.startswith("Imported tiny 1.0.0 into ")

    sample = tmp_path / "sample.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, 20), dtype=np.uint8)).save(sample)
    assert run("check", "--samples", sample, "--data-folder", data, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["name"], report["samples"], report["samples_are_random"]) == ("tiny", 1, False)
    assert report["labels_agree"] == 1

    assert run("check", "tiny", "--data-folder", data) == 0
    shown = capsys.readouterr().out
    assert "fully_connected1" in shown
    assert "crypten" in shown
    assert "4 of 4 labels agree" in shown


def test_an_import_says_what_bits_it_chose_and_what_they_cost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, card = write_model(tmp_path / "given")
    common = ("import", model, "--card", card, "--data-folder")
    assert run(*common, tmp_path / "data", "--logit-error", "0.01") == 0
    shown = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("Masked engine: "))
    for part in ("ReLUs keep ", " bits and compare ", "weights have 8 bits in ", "(allowed: 0.01)", " MB online."):
        assert part in shown


def test_a_logit_error_that_no_plan_keeps_is_refused_with_the_least_that_one_keeps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, card = write_model(tmp_path / "given")
    common = ("import", model, "--card", card, "--data-folder")
    assert run(*common, tmp_path / "data", "--logit-error", "0.000001") == 2
    refused = capsys.readouterr().err
    assert "no plan keeps logits within 1e-06 of floating point" in refused
    least = re.search(r"allow --logit-error (\S+) or more,", refused)
    assert least is not None
    assert not (tmp_path / "data").exists()
    assert run(*common, tmp_path / "data", "--logit-error", str(float(least[1]) * 0.9)) == 2
    assert f"allow --logit-error {least[1]} or more," in capsys.readouterr().err  # whatever was asked for
    assert run(*common, tmp_path / "data", "--logit-error", least[1]) == 0


@pytest.mark.parametrize("given", ["nan", "-nan", "inf", "0", "-1", "little", ""])
def test_a_logit_error_that_is_no_number_in_range_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], given: str
) -> None:
    assert run("import", tmp_path, "--card", tmp_path, "--data-folder", tmp_path, f"--logit-error={given}") == 2
    assert "--logit-error" in capsys.readouterr().err


@pytest.mark.parametrize("arithmetic", Arithmetic)
def test_check_reports_both_arithmetics(tmp_path: Path, arithmetic: Arithmetic) -> None:
    added = ImportedModels(tmp_path / "data", KEY).add(*write_model(tmp_path / "given", arithmetic=arithmetic))
    report = check_model(added)
    assert report.fixed_point is not None
    assert report.other_arithmetic is not None
    assert {report.fixed_point.arithmetic, report.other_arithmetic.arithmetic} == set(Arithmetic)
    assert report.fixed_point.arithmetic is arithmetic
    for one in (report.fixed_point, report.other_arithmetic):
        assert one.max_abs_error is not None
        assert 0 < one.max_abs_error < 0.05
        assert (one.labels_agree, one.out_of_range) == (report.samples, None)
    assert report.fixed_point.max_abs_error != report.other_arithmetic.max_abs_error


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (("import", "absent.onnx", "--card", "absent.json"), 2),
        (("import", "given.onnx", "--card", "absent.json"), 2),
        (("import", "absent.onnx", "--card", "card.json"), 2),
        (("import", "given.onnx", "--card", "card.json", "--data-folder", "card.json"), 5),
        (("check", "absent"), 2),
        (("check", "--samples", "card.json"), 2),
    ],
)
def test_errors_are_one_line_on_stderr(
    imported: Path, tmp_path: Path, arguments: tuple[str, ...], status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    write_model(tmp_path, version="7.0.0")
    named: list[str | Path] = [tmp_path / argument if "." in argument else argument for argument in arguments]
    extra: list[str | Path] = [] if "--data-folder" in arguments else ["--data-folder", imported]
    assert run(*named, *extra) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("model-owner: ")
    assert err.count("\n") == 1


def test_what_serves_models_loads_no_torch() -> None:
    modules = "model_owner.command, model_owner.imported_models, model_owner.registration, model_owner.server"
    code = f"import sys, {modules}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_heavy_libraries_wait_until_a_command_needs_them() -> None:
    code = (
        "import sys, model_owner.command; "
        "print([name for name in ('torch', 'onnx', 'onnxruntime', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_a_final_softmax_is_left_out_with_a_note_and_the_check_compares_logits(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, card = write_model(tmp_path / "given")
    proto = tiny_model()
    proto.graph.node[-1].output[0] = proto.graph.node[-1].name = "scores"
    proto.graph.node.append(node("Softmax", ["scores"], "logits", axis=1))
    model.write_bytes(proto.SerializeToString())
    card.write_text(card_for(model, height=12, width=10, class_count=3).model_dump_json())
    added = ImportedModels(tmp_path / "data", KEY).add(model, card)
    assert "the model ends in Softmax, which is left out" in caplog.text
    assert "softmax" not in {operation.kind for operation in added.plan.network.operations}
    report = check_model(added)
    assert report.max_abs_error < 1e-4
    assert report.labels_agree == report.samples
