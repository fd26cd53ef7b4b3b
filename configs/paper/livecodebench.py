r"""LiveCodeBench (arXiv 2403.07974), which the ICLR version of arXiv 2508.08221 adds to its six benchmarks.

The paper says LCB-v5, and not how it asks. Here: the problems that version 5 added (test5.jsonl of the light set), each
with its public and private tests. A program is run on them by the verifier `program`, in a sandbox that needs
bubblewrap; with reward.sandbox = "none" it has the rights of the process.

Command: jaxrl-llm tiers --config configs/paper/livecodebench.py
Then, for a model that answers with a block of code:
  jaxrl-llm evaluate --config CONFIG --config.reward.verifier=program --config.reward.answer_format=code \
    --config.evaluation.source=jsonl:data/paper/livecodebench/livecodebench.jsonl --config.evaluation.source_key=source
Hardware: any; minutes. Needs the network; the names of file and columns are those of the data set's card, never run by
us.
"""

from ml_collections import ConfigDict

from configs.models import paper


def get_config() -> ConfigDict:
    c = ConfigDict()
    c.folder = "data/paper/livecodebench"
    c.seed = 42
    c.reward = paper.get_config().reward
    c.reward.verifier = "program"
    c.reward.answer_format = "code"
    c.held_out = None
    part = {
        "source": "hub:livecodebench/code_generation_lite/test5.jsonl",
        "question_key": "question_content",
        "tests_keys": ("public_test_cases", "private_test_cases"),
        "starter_key": "starter_code",
        "metadata_key": "metadata",
    }
    c.files = ConfigDict({"livecodebench": {"LiveCodeBench": part}}, sort_keys=False)
    return c
