"""Commands of `hf-icon2` beside those of a run: each module has SUMMARY, `add_arguments(parser)` and `run(arguments)`.

They are imported to show the help, so nothing heavy is imported before `run`.
"""
