"""Attaching a store to a model, sharing it, and taking it off again."""

from pathlib import Path
from threading import Event, Thread

import pytest
import torch

from kvstrata.connectors.architecture import Description
from kvstrata.connectors.transformers import TransformersConnector, attach
from kvstrata.connectors.weights import Weights
from kvstrata.kvstore.errors import ArgumentError, LayoutError, StoreClosedError
from kvstrata.kvstore.identity import Identity
from kvstrata.kvstore.store import Store
from tests.connectors import tiny
from tests.connectors.conftest import Attach, OpenStore
from tests.connectors.tiny import BLOCK, answer

IDS = tiny.prompt(77)


def test_detaching_gives_the_model_back(attached: Attach) -> None:
    model = tiny.model()
    own = model.generate
    connector = attached(model)
    assert model.generate != own
    connector.detach()
    assert model.generate == own
    assert "generate" not in vars(model)


def test_a_model_has_one_store_at_a_time(attached: Attach, store: Store) -> None:
    model = tiny.model()
    attached(model)
    with pytest.raises(ArgumentError, match="detach"):
        attach(model, store)


def test_a_store_that_was_opened_for_a_model_closes_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KVSTRATA_MEMORY", "16MiB")
    monkeypatch.setenv("KVSTRATA_DISK", "16MiB")
    model = tiny.model()
    with attach(model, tmp_path / "here") as connector:
        model.generate(IDS, max_new_tokens=1)
    assert (tmp_path / "here").is_dir()
    with pytest.raises(StoreClosedError):
        connector.store.stats()


def test_a_model_that_is_refused_leaves_nothing_behind(tmp_path: Path) -> None:
    model = tiny.model(rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4})
    with pytest.raises(LayoutError):
        attach(model, tmp_path / "here")
    assert not (tmp_path / "here").exists()
    assert "generate" not in vars(model)


def test_another_process_goes_on_where_the_last_one_ended(open_store: OpenStore) -> None:
    model = tiny.model("gemma3_text")
    with open_store() as store, attach(model, store, block_tokens=BLOCK) as connector:
        assert connector.weights.wait(60)
        cold = answer(model.generate, IDS)
    with open_store() as store, attach(model, store, block_tokens=BLOCK) as connector:
        assert connector.weights.wait(60)
        warm = answer(model.generate, IDS)
        assert connector.counts.reused_tokens == 72
        assert torch.equal(warm.sequences, cold.sequences)


def test_what_is_saved_before_the_weights_are_known_stays_in_the_process(
    open_store: OpenStore,
) -> None:
    model, read = tiny.model(), Event()
    description = Description(model, block_tokens=BLOCK)
    weights = Weights(model, lambda: "a" * 64 if read.wait(60) else "")
    with (
        open_store() as store,
        TransformersConnector(model, store, description=description, weights=weights) as connector,
    ):
        answer(model.generate, IDS, tokens=1)
        answer(model.generate, IDS, tokens=1)
        assert connector.counts.reused_tokens == 72  # the same process may
        read.set()
        assert weights.wait(60)
        answer(model.generate, IDS[:, :40], tokens=1)
        assert connector.counts.reused_tokens == 72
    with open_store() as store:
        assert store.stats().blocks == 40 // BLOCK


@pytest.mark.parametrize("name", ["tenant", "salt"])
def test_tenants_and_salts_do_not_share(name: str, store: Store) -> None:
    model, reused = tiny.model(), []
    for value in ("a", "b", "a"):
        tenant, salt = (value, "") if name == "tenant" else ("", value)
        with attach(model, store, tenant=tenant, salt=salt, block_tokens=BLOCK) as connector:
            assert connector.weights.wait(60)
            answer(model.generate, IDS, tokens=1)
            reused.append(connector.counts.reused_tokens)
    assert reused == [0, 0, 72]


def test_models_that_differ_in_weights_do_not_share(store: Store) -> None:
    for seed in (0, 1):
        model = tiny.model(seed=seed)
        with attach(model, store, block_tokens=BLOCK) as connector:
            assert connector.weights.wait(60)
            answer(model.generate, IDS, tokens=1)
            assert connector.counts.reused_tokens == 0


def test_new_weights_do_not_see_the_old_ones_kv(attached: Attach) -> None:
    model = tiny.model()
    connector = attached(model)
    answer(model.generate, IDS, tokens=1)
    with torch.no_grad():
        model.lm_head.weight.add_(torch.randn_like(model.lm_head.weight))
        model.model.layers[0].self_attn.k_proj.weight.mul_(1.5)
    cold = answer(connector.engine, IDS)
    assert torch.equal(answer(model.generate, IDS).sequences, cold.sequences)
    assert connector.counts.reused_tokens == 0
    assert connector.weights.wait(60)
    assert torch.equal(answer(model.generate, IDS).sequences, cold.sequences)
    assert connector.counts.reused_tokens == 0
    answer(model.generate, IDS)
    assert connector.counts.reused_tokens == 72


def test_other_kernels_do_not_see_the_first_ones_kv(attached: Attach) -> None:
    model = tiny.model()
    connector = attached(model)
    answer(model.generate, IDS, tokens=1)
    model.set_attn_implementation("eager")
    answer(model.generate, IDS, tokens=1)
    assert connector.counts.reused_tokens == 0
    answer(model.generate, IDS, tokens=1)
    assert connector.counts.reused_tokens == 72


def test_another_configuration_does_not_see_the_first_ones_kv(attached: Attach) -> None:
    model = tiny.model()
    connector = attached(model)
    answer(model.generate, IDS, tokens=1)
    model.config.rms_norm_eps = 0.1
    answer(model.generate, IDS, tokens=1)
    assert connector.counts.reused_tokens == 0


def test_only_what_was_restored_can_be_saved(attached: Attach) -> None:
    connector = attached(tiny.model())
    restored = connector.restore(IDS)
    other = answer(connector.engine, tiny.prompt(77, seed=1))
    with pytest.raises(ArgumentError, match="do not begin"):
        restored.save(other.sequences)


def test_weights_that_change_while_the_model_runs_save_nothing(attached: Attach) -> None:
    model = tiny.model()
    connector = attached(model)
    restored = connector.restore(IDS)
    said = answer(connector.engine, IDS, past_key_values=restored.cache)
    with torch.no_grad():
        model.lm_head.weight.mul_(2)
    assert restored.save(said.sequences) == 0
    assert connector.store.stats().blocks == 0
    assert sum(connector.counts.bypassed.values()) == 1


def test_the_digest_of_files_stands_for_the_model_in_memory(
    open_store: OpenStore, tmp_path: Path
) -> None:
    tiny.plain_model().save_pretrained(tmp_path / "model")
    identities: list[Identity] = []
    for _ in range(2):
        model = tiny.plain_model()
        with (
            open_store() as store,
            attach(model, store, weights=tmp_path / "model", block_tokens=BLOCK) as connector,
        ):
            assert connector.weights.wait(60)
            identities.append(connector.identity)
            answer(model.generate, IDS, tokens=1)
            assert connector.counts.reused_tokens == (0 if len(identities) == 1 else 72)
    assert identities[0] == identities[1]


def test_threads_may_call_the_model_at_once(attached: Attach) -> None:
    model = tiny.model("gemma3_text")
    connector = attached(model)
    prompts = [torch.cat([IDS[:, :50], tiny.prompt(20, seed=seed)], dim=1) for seed in range(4)]
    expected = [answer(connector.engine, ids).sequences for ids in prompts]
    wrong: list[int] = []

    def ask(number: int) -> None:
        for turn in range(6):
            which = (number + turn) % len(prompts)
            if not torch.equal(answer(model.generate, prompts[which]).sequences, expected[which]):
                wrong.append(which)

    threads = [Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert connector.counts.calls == 24
    assert connector.counts.reused_tokens > 0
    connector.store.audit()
