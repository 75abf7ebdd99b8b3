"""Backtests, pretrained forecasters and forecasts on S3: tables in, folders out, through faults."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from curves import ladder, write_table
from rows import checkpoint_rows
from s3_server import ACCESS_KEY, SECRET_KEY, S3Server
from typer.testing import CliRunner

import neuneu
from neuneu.cli.app import app
from neuneu.cli.exit_codes import EXIT_USER_ERROR
from neuneu.core import s3 as s3_access
from neuneu.core.config import build_config, config_to_dict
from neuneu.core.errors import UserError
from neuneu.core.storage import Folder
from neuneu.data.load import load_dataset, load_table
from neuneu.data.schemas import ACCURACIES
from neuneu.data.store.store import Store
from neuneu.evaluation.config import BacktestConfig
from neuneu.forecasters.registry import load_forecaster
from neuneu.reports.backtest.run import backtest
from neuneu.scoring.corpus import load_corpus
from neuneu.training.config import TrainConfig
from neuneu.training.cross_run.pretraining import PretrainConfig, pretrain
from neuneu.training.data import read_source


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return write_table(tmp_path / "accuracies.parquet", ladder(4))


@pytest.fixture
def there(s3: S3Server, table: Path) -> str:
    """A folder on S3 that holds the table."""
    s3.put("in/accuracies.parquet", table.read_bytes())
    return f"s3://{s3.bucket}"


def small(accuracies: str | Path, output: str | Path, **changes: Any) -> BacktestConfig:
    given = {
        "accuracies": accuracies, "output": output, "forecasters": ["persistence", "power-law"],
        "folds": 2, "bootstrap_samples": 100, "figures": False,
    }  # fmt: skip
    return build_config(BacktestConfig, given | changes)


def test_backtest_on_s3_is_as_on_disk(
    s3: S3Server, there: str, table: Path, tmp_path: Path
) -> None:
    local = backtest(small(table, tmp_path / "out"))
    s3.fail_with_503(2)
    s3.cut_after(500, times=2)
    result = backtest(small(f"{there}/in/accuracies.parquet", f"{there}/out/"))
    assert result == local | {"output": f"{there}/out"}
    folder = Folder(f"{there}/out")
    assert folder.files().keys() == {"forecasts.parquet", "config.yaml", "summary.json"}
    assert folder.read("forecasts.parquet") == (tmp_path / "out/forecasts.parquet").read_bytes()
    summaries = [json.loads(folder.read("summary.json"))]
    summaries.append(json.loads((tmp_path / "out/summary.json").read_text()))
    assert len({summary.pop("made_by")["data_digest"] for summary in summaries}) == 1
    assert summaries[0] == summaries[1]
    puts = [path for method, path in s3.requests if method == "PUT" and "/out/" in path]
    assert puts[-1].endswith("/out/summary.json"), "what marks the folder as whole comes last"


def test_backtest_on_s3_that_stays_away_leaves_the_earlier_one_whole(
    s3: S3Server, there: str
) -> None:
    config = small(f"{there}/in/accuracies.parquet", f"{there}/out")
    backtest(config)
    before = Folder(config.output).read("summary.json")
    s3.when("PUT", at=2, do=lambda: s3.refuse_access(f"no such key {ACCESS_KEY}"))
    with pytest.raises(UserError, match="S3 refuses access") as refused:
        backtest(small(config.accuracies, config.output, context=0.4))
    s3.refuse_access("")
    assert Folder(config.output).read("summary.json") == before
    assert ACCESS_KEY not in str(refused.value)


def test_a_place_that_cannot_be_used_is_told_before_the_work(
    there: str, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(*_: Any, **__: Any) -> None:
        pytest.fail("the tables were read first")

    monkeypatch.setattr("neuneu.evaluation.backtest.load_dataset", work)
    monkeypatch.setattr("neuneu.training.cross_run.pretraining.load_dataset", work)
    with pytest.raises(UserError, match="bucket nowhere-at-all does not exist"):
        backtest(small(table, "s3://nowhere-at-all/out"))
    with pytest.raises(UserError, match="bucket nowhere-at-all does not exist"):
        pretrain(PretrainConfig(accuracies=str(table), output="s3://nowhere-at-all/out"))


def test_backtest_reads_a_store_and_models_on_s3(s3: S3Server, there: str, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.bind({})
    for run in "ab":
        for step in range(10, 130, 10):
            store.commit(checkpoint_rows(step, run=run))
    for name in store.folder.files():
        s3.put(f"store/{name}", store.folder.read(name))
    observed = load_dataset(f"{there}/store")
    assert {len(t) for t in observed.trajectories} == {12}
    assert observed.token_losses is not None
    result = backtest(small(f"{there}/store", tmp_path / "out", reference=f"{there}/store"))
    assert set(result["mae"]) == {"persistence", "power-law"}
    with pytest.raises(UserError, match=rf"{there}/model: expected a trained forecaster"):
        backtest(small(f"{there}/store", tmp_path / "out", models=[f"{there}/model"]))


@pytest.mark.slow
def test_pretrained_on_s3_forecasts_from_there(
    s3: S3Server, there: str, table: Path, tmp_path: Path
) -> None:
    config = build_config(
        PretrainConfig,
        {
            "accuracies": f"{there}/in/accuracies.parquet", "output": f"{there}/model",
            "networks": 1, "folds": 2,
            "fit": {
                "network": {"width": 16, "heads": 2, "blocks": 1},
                "optim": {"max_steps": 3, "batch_size": 8},
            },
        },
    )  # fmt: skip
    s3.lose_answers("PUT", times=1)
    assert pretrain(config) == {"output": f"{there}/model", "runs": 4, "trajectories": 16}
    folder = Folder(f"{there}/model")
    assert folder.files().keys() == {"MODEL_CARD.md", "config.json", "model.safetensors"}
    for name in folder.files():
        assert SECRET_KEY.encode() not in folder.read(name)
    puts = [path for method, path in s3.requests if method == "PUT" and "/model/" in path]
    assert puts[-1].endswith("/model/config.json")
    assert load_forecaster(f"{there}/model", name="x").name == "x"

    neuneu.load(f"{there}/model").forecast(table, until=40_000.0, points=3).write(tmp_path / "out")
    model = neuneu.load(f"{there}/model")
    answer = model.forecast(f"{there}/in/accuracies.parquet", until=40_000.0, points=3)
    answer.write(f"{there}/f")
    written = Folder(f"{there}/f").read("forecasts.parquet")
    assert written == (tmp_path / "out/forecasts.parquet").read_bytes()
    with pytest.raises(UserError, match=f"s3://{s3.bucket}/none: expected a trained forecaster"):
        neuneu.load(f"{there}/none")


def test_commands_take_places_on_s3(s3: S3Server, there: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    command = [
        "backtest", f"{there}/in/accuracies.parquet", "--forecasters", "persistence",
        "--set", "folds=2", "--set", "bootstrap_samples=100", "-o", f"{there}/out", "--json",
    ]  # fmt: skip
    s3.put("out/figures/losses.svg", b"<svg>of an earlier backtest</svg>")
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout.splitlines()[-1])["report"] == f"{there}/out/report.html"
    folder = Folder(f"{there}/out")
    figures = [name for name in folder.files() if name.startswith("figures/")]
    assert "figures/trajectories.svg" in figures
    assert "figures/losses.svg" not in figures
    page = folder.read("report.html")
    folder.delete("report.html")
    assert CliRunner().invoke(app, ["report", f"{there}/out"]).exit_code == 0
    assert folder.read("report.html") == page
    missing = CliRunner().invoke(app, ["report", f"{there}/elsewhere"])
    assert missing.exit_code == EXIT_USER_ERROR
    assert f"{there}/elsewhere: expected answers or a backtest's summary.json" in missing.stderr


def test_tables_on_s3_are_read_by_their_names(
    s3: S3Server, there: str, table: Path, tmp_path: Path
) -> None:
    wanted = load_table(table, ACCURACIES, name="x").table
    pacsv.write_csv(pq.read_table(table), tmp_path / "a.csv")
    s3.put("in/a.csv", (tmp_path / "a.csv").read_bytes())
    s3.put("in/a.csv.gz", gzip.compress((tmp_path / "a.csv").read_bytes()))
    for name in ("a.csv", "a.csv.gz", "accuracies.parquet"):
        assert load_table(f"{there}/in/{name}", ACCURACIES, name="x").table.equals(wanted)
    source = read_source(TrainConfig(output="unused", accuracies=f"{there}/in/accuracies.parquet"))
    assert len(source[0]) == 16
    with pytest.raises(UserError, match=f"{there}/in/none.csv: no such file"):
        load_table(f"{there}/in/none.csv", ACCURACIES, name="x")
    s3.put("in/b.parquet", b"PAR1 and no more")
    with pytest.raises(UserError, match=f"{there}/in/b.parquet: expected a parquet file, found"):
        load_table(f"{there}/in/b.parquet", ACCURACIES, name="x")


def test_a_corpus_on_s3_is_that_on_disk(s3: S3Server, there: str, tmp_path: Path) -> None:
    (tmp_path / "held-out.txt").write_text("some words of a text that no model was trained on")
    s3.put("in/held-out.txt", (tmp_path / "held-out.txt").read_bytes())
    wanted = load_corpus(tmp_path / "held-out.txt", max_words=5)
    assert load_corpus(f"{there}/in/held-out.txt", max_words=5) == wanted
    with pytest.raises(UserError, match=f"text {there}/in/none.txt: no such file"):
        load_corpus(f"{there}/in/none.txt", max_words=5)


@pytest.mark.parametrize("config", [BacktestConfig, TrainConfig, PretrainConfig])
def test_places_stay_what_they_are(config: type, tmp_path: Path) -> None:
    given = {"accuracies": tmp_path / "a.csv", "output": "s3://bucket/out"}
    built = config_to_dict(build_config(config, given))
    assert built["accuracies"] == str(tmp_path / "a.csv")
    assert built["output"] == "s3://bucket/out"
    assert built["losses"] is None
    assert built["tasks"] is None


def test_a_directory_named_like_a_table_is_a_store(tmp_path: Path) -> None:
    store = Store(tmp_path / "store.csv")
    store.bind({})
    store.commit(checkpoint_rows(10))
    assert load_dataset(tmp_path / "store.csv").trajectories


def test_the_region_is_that_of_either_variable(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def region() -> str:
        Folder(f"s3://{s3.bucket}").exists("x")
        return str(s3_access.file_system().s3.meta.region_name)

    assert region() == "us-east-1"
    monkeypatch.setenv("AWS_REGION", "eu-west-3")
    assert region() == "eu-west-3"
