"""The demo, on short texts: the same answers with the store, in every act."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from kvstrata.connectors.models import load, smollm2
from kvstrata.kvstore.errors import ArgumentError
from kvstrata.kvstore.settings import Settings
from kvstrata.server.demo import Play, steps
from kvstrata.server.demo_runs import Run, summarise, to_dict
from kvstrata.server.demo_script import FOLLOW_UPS, Conversation, Document, documents
from kvstrata.server.demo_show import print_table, showing

MIB = 1 << 20


@pytest.fixture(scope="module")
def model() -> Path:
    """The directory of SmolLM2-135M-Instruct."""
    try:
        return smollm2()
    except ArgumentError as exc:
        pytest.skip(str(exc))


def short(document: Document) -> Document:
    """The first 150 words of a document."""
    return document._replace(text=" ".join(document.text.split()[:150]))


@pytest.mark.model
def test_every_act_says_the_same_and_reuses_what_is_stored(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    texts = [short(document) for document in documents()[:1]]
    settings = Settings(dir=tmp_path / "store", memory=256 * MIB, disk=512 * MIB)
    with showing(steps(texts)) as show:
        play = Play(model, settings, texts, show=show)
        play.perform()
    assert len(play.runs) == steps(texts) - 1  # the kill is a step, and no run
    assert [run.name for run in play.runs if not run.same_output] == []
    by_phase = {run.phase: [r for r in play.runs if r.phase == run.phase] for run in play.runs}
    assert [run.tier for run in by_phase["documents"]] == ["none", "ram"]
    assert {run.tier for run in by_phase["conversation"]} == {"ram"}
    assert by_phase["new_process"][0].tier == "disk"
    assert all(run.reused_tokens > 0.8 * run.prompt_tokens for run in by_phase["new_process"])
    *whole, half = by_phase["after_kill"]
    assert [run.tier for run in whole] == ["disk"]
    assert half.name.endswith("half saved")
    read = sum(run.prompt_tokens - run.reused_tokens for run in play.runs)
    assert play.prefilled_tokens > read


@pytest.mark.model
def test_the_documents_are_as_long_as_is_said(model: Path) -> None:
    tokenizer = load(model).tokenizer
    sizes = [
        len(Conversation(document, document.questions[0]).prompt("", tokenizer).tokens)
        for document in documents()
    ]
    for size, said in zip(sizes, (2000, 3000, 4000), strict=True):
        assert abs(size - said) < 0.06 * said
    # each question once without the store, and the turns that are new; then the rests of prompts
    turns = sizes[0] * len(FOLLOW_UPS)
    assert 2 * sum(sizes) + turns + 0.1 * sum(sizes) + sizes[0] < 25_000


def run(**own: object) -> Run:
    """A run of 100 tokens, all but 10 from memory, 20 times sooner."""
    values = {
        "phase": "documents",
        "name": "a",
        "tier": "ram",
        "prompt_tokens": 100,
        "reused_tokens": 90,
        "ttft_cold_s": 2.0,
        "ttft_warm_s": 0.1,
        "same_output": True,
    }
    return Run(**(values | own))  # type: ignore[arg-type]


def test_json_says_what_was_measured() -> None:
    runs = [run(), run(reused_tokens=0, tier="none", ttft_warm_s=2.0), run(ttft_warm_s=0.2)]
    assert json.loads(json.dumps(to_dict(runs, summarise(runs, 7)))) == {
        "runs": [
            {
                "phase": "documents",
                "tier": each.tier,
                "prompt_tokens": 100,
                "reused_tokens": each.reused_tokens,
                "ttft_cold_s": 2.0,
                "ttft_warm_s": each.ttft_warm_s,
                "same_output": True,
            }
            for each in runs
        ],
        "speedup_median": 15.0,
        "all_same": True,
    }


def test_the_table_fits_a_terminal() -> None:
    long = {"prompt_tokens": 3999, "reused_tokens": 3968, "ttft_cold_s": 128.0, "ttft_warm_s": 1.0}
    runs = [
        run(name="lighthouses, question 1", reused_tokens=0),
        run(name="lighthouses, half saved", phase="after_kill", tier="disk", **long),
    ]
    paper = io.StringIO()
    print_table(runs, summarise(runs, 23_456), console=Console(file=paper, width=80))
    lines = paper.getvalue().splitlines()
    assert [line for line in lines if len(line) > 80] == []
    (row,) = [line.split() for line in lines if "half saved" in line]
    assert " ".join(row) == "lighthouses, half saved 3,999 3,968 31 disk 128.0 s 1.00 s 128 x yes"


def test_one_other_text_is_not_all_the_same() -> None:
    assert not summarise([run(), run(same_output=False)], 0).all_same
