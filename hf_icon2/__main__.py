"""`python -m hf_icon2` is the `hf-icon2` command."""

from hf_icon2.cli import main

raise SystemExit(main())
