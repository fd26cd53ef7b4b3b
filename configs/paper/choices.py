r"""GPQA and MMLU-Pro, which the ICLR version of arXiv 2508.08221 adds to six benchmarks of its tables 1 to 4.

The choices stand in the question under letters, and the letter is the answer. How the paper asks is not said; nor
which part of GPQA it means (here its diamond set). The order of GPQA's choices is drawn with the seed.
LiveCodeBench, the third that it adds: configs/paper/livecodebench.py.

Command: jaxrl-llm tiers --config configs/paper/choices.py
Then, for any model, whose answers are read where `reward.answer_format` says:
  jaxrl-llm evaluate --config CONFIG --config.evaluation.source_key=source \
    --config.evaluation.source=jsonl:data/paper/choices/choices.jsonl
Hardware: any; minutes. Needs the network, and for GPQA the consent that its authors ask for on the Hub; the names of
the columns are those of the data sets' cards, never run by us.
"""

from ml_collections import ConfigDict

from configs.models import paper


def get_config() -> ConfigDict:
    c = ConfigDict()
    c.folder = "data/paper/choices"
    c.seed = 42
    c.reward = paper.get_config().reward
    c.held_out = None
    parts = {
        "GPQA": {
            "source": "hub:Idavidrein/gpqa:gpqa_diamond",
            "question_key": "Question",
            "answer_key": "Correct Answer",
            "wrong_keys": ("Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3"),
        },
        "MMLU-Pro": {"source": "hub:TIGER-Lab/MMLU-Pro", "split": "test", "choices_key": "options"},
    }
    c.files = ConfigDict({"choices": parts}, sort_keys=False)
    return c
