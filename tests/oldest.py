"""The lower end of each range of setup.cfg as constraints of pip: `make oldest` installs these.

python tests/oldest.py > constraints.txt
"""

import configparser
import re
from pathlib import Path

SETUP = Path(__file__).parent.parent / "setup.cfg"


def requirements() -> list[str]:
    """What setup.cfg asks for, tools of development too: "jax>=0.10.2,<0.13"."""
    setup = configparser.ConfigParser()
    setup.read_string(SETUP.read_text())
    lists = setup["options"]["install_requires"], setup["options.extras_require"]["dev"]
    return [line.split(";")[0].strip() for text in lists for line in text.splitlines() if line]


def constraints() -> list[str]:
    """ "jax==0.10.2" for each range; a version that is pinned already needs none."""
    ranges = (re.match(r"([\w.-]+)(?:\[\w+\])?>=([\d.]+)", line) for line in requirements())
    return [f"{found[1]}=={found[2]}" for found in ranges if found]


if __name__ == "__main__":
    print("\n".join(constraints()))
