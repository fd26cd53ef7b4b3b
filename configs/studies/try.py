"""A trick of your own against the base, on the two small models: docs/studies.md walks through it.

Command: jaxrl-llm study run --config configs/studies/try.py --trick my_trick.py
Hardware: two CPU cores. Expected: 4 min 39 s beside other work, with a trick that is code.
"""

from ml_collections import ConfigDict

from configs.studies import lab


def get_config():
    c = ConfigDict()
    c.name = "try"
    c.question = "Does the trick help, and on which model?"
    c.claim = ""
    c.source = ""
    c.engine = "lab"
    c.run = lab.get_config()
    c.cells = ConfigDict(
        {"base": {"model.source": "embedded:lab_base"}, "aligned": {"model.source": "embedded:lab_aligned"}},
        allow_dotted_keys=True,
        sort_keys=False,
    )
    c.mode = "one_at_a_time"  # the base, and what --trick adds
    c.seeds = 16
    return c
