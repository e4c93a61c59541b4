"""Restoring and saving by hand, around a decoding loop of one's own.

python examples/transformers_loop.py MODEL_DIRECTORY "Some text"
"""

import sys
from pathlib import Path

import torch

from kvstrata.connectors.models import load
from kvstrata.connectors.transformers import attach


def main() -> None:
    """Decode 32 tokens, greedily."""
    directory, text = sys.argv[1:]
    model, tokenizer, _ = load(Path(directory))
    with attach(model, weights=Path(directory)) as kv, torch.no_grad():
        kv.weights.wait()
        sequence = tokenizer(text, return_tensors="pt")["input_ids"]
        restored = kv.restore(sequence)
        print(f"{restored.reused_tokens} of {restored.prompt_tokens} tokens are restored")
        new = sequence[:, restored.columns :]
        for _ in range(32):
            logits = model(new, past_key_values=restored.cache).logits
            new = logits[:, -1:].argmax(dim=-1)
            sequence = torch.cat([sequence, new], dim=1)
        print(f"{restored.save(sequence)} blocks are stored now")
        print(tokenizer.decode(sequence[0]))


if __name__ == "__main__":
    main()
