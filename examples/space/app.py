"""The playground as a Space: change `open_toy()` to `open_model("owner/model", "owner/directions")` for yours."""

import logging

from hf_icon2.playground.page import launch
from hf_icon2.playground.subject import open_toy

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    launch(open_toy())
