"""A model that remembers the documents it has read, also after a restart.

    python examples/transformers_generate.py MODEL_DIRECTORY DOCUMENT "A question?" "Another one?"

Run it twice: the second time the document is not prefilled again, not even for the first question.
"""

import sys
import time
from pathlib import Path

from kvstrata.connectors.models import load
from kvstrata.connectors.transformers import attach


def main() -> None:
    """Ask each question about the document."""
    directory, document, *questions = sys.argv[1:]
    model, tokenizer, _ = load(Path(directory))
    text = Path(document).read_text(encoding="utf-8")
    with attach(model, weights=Path(directory)) as kv:
        kv.weights.wait()  # what is saved before the weights are known stays in this process
        for question in questions:
            messages = [{"role": "user", "content": f"{text}\n\n{question}"}]
            inputs = tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
            )
            start, before = time.perf_counter(), kv.counts.reused_tokens
            output = model.generate(**inputs, max_new_tokens=48, do_sample=False)
            answer = tokenizer.decode(
                output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True
            )
            print(f"{question}\n  {answer}")
            print(
                f"  {kv.counts.reused_tokens - before} of {inputs['input_ids'].shape[1]} tokens "
                f"reused, {time.perf_counter() - start:.2f} s"
            )


if __name__ == "__main__":
    main()
