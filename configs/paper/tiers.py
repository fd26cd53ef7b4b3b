"""The files that configs/models/paper.py and the experiments at scale `paper` read: three tiers, and six benchmarks.

As arXiv 2508.08221 says, section 3: Easy is 5,000 rows at random of SimpleRL-Zoo-Data's Easy (GSM8K and MATH level 1),
Medium the 5,000 rows of DeepMath-103K with the smallest `difficulty`, Hard 5,000 of it in proportion to `difficulty`;
few rows answered True or False. The average accuracy is the plain mean over the six benchmarks.
It does not say: the revisions, the seed, how many rows answered True or False stay (100 here, as in the 4,994 rows
that ROLL ships), which model gave the right answers out of 8 of its figure 2, and whether questions of the benchmarks
were taken out (here they are). For tiers by right answers out of 8: configs/paper/tiers_by_rate.py.
The three of the ICLR version: configs/paper/choices.py (GPQA, MMLU-Pro) and configs/paper/livecodebench.py.

Command: jaxrl-llm tiers --config configs/paper/tiers.py
Rows of your own, or a fixed revision: a config that changes this one, as in
  c = tiers.get_config(); c.files.easy.gsm8k_math1.source = "jsonl:FILE"   # or "hub:NAME@REVISION"
Hardware: any; minutes. Needs the network; the names of the columns are those of the data sets' cards, never run by us.
"""

from ml_collections import ConfigDict

from configs.models import paper

ROWS = 5000
TRUE_FALSE_ROWS = 100
DEEPMATH = {
    "source": "hub:zwhe99/DeepMath-103K",
    "answer_key": "final_answer",
    "by": "difficulty",
    "low": 0.5,  # ratings begin at 1: what is below is none, and would have no weight
    "rows": ROWS,
    "true_false_rows": TRUE_FALSE_ROWS,
}


def get_config() -> ConfigDict:
    c = ConfigDict()
    c.folder = "data/paper"
    c.seed = 42
    c.reward = paper.get_config().reward  # the verifier of the runs must be able to read every answer
    c.held_out = "benchmarks"
    files = {
        "easy": {
            "gsm8k_math1": {
                "source": "hub:hkust-nlp/SimpleRL-Zoo-Data/simplelr_abel_gsm8k_level1/train.parquet",
                "question_key": "extra_info.question",
                "answer_key": "extra_info.answer",
                "draw": "uniform",
                "rows": ROWS,
                "true_false_rows": TRUE_FALSE_ROWS,
            }
        },
        "medium": {"deepmath": {**DEEPMATH, "draw": "lowest"}},
        "hard": {"deepmath": {**DEEPMATH, "draw": "proportional"}},
        "benchmarks": {
            "MATH-500": {"source": "hub:HuggingFaceH4/MATH-500", "split": "test", "question_key": "problem"},
            "AMC23": {"source": "hub:math-ai/amc23", "split": "test"},
            "AIME24": {"source": "hub:HuggingFaceH4/aime_2024", "question_key": "problem"},
            "AIME25": {"source": "hub:math-ai/aime25", "split": "test", "question_key": "problem"},
            "Minerva": {"source": "hub:math-ai/minervamath", "split": "test"},
            "OlympiadBench": {
                "source": "hub:Hothan/OlympiadBench:OE_TO_maths_en_COMP",
                "answer_key": "final_answer",
            },
        },
    }
    c.files = ConfigDict(files, sort_keys=False)
    return c
