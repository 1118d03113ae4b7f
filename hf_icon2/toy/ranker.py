"""The toy's black box as a server: an OpenAI-compatible endpoint on 127.0.0.1 that answers ranking prompts.

    python -m hf_icon2.toy.ranker --port 8000 --noise 2 --coupling 1

How it ranks is `ranking`'s matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from string import ascii_uppercase as LETTERS

from hf_icon2.toy.ranking import RankingRule, read_prompt
from hf_icon2.toy.serving import Request, RuleServer, command_line

MODEL = "toy-ranker"


class RankerServer(RuleServer):
    """Serves a `RankingRule` while the context is open.

    Args:
        rule: How it ranks; `RankingRule()` by default.
        port: 0 takes a free one.
    """

    def __init__(self, rule: RankingRule | None = None, *, port: int = 0) -> None:
        self.rule = rule or RankingRule()
        super().__init__(self._ranking, MODEL, port=port)

    def _ranking(self, prompt: str, request: Request) -> str:
        demonstrations, query = read_prompt(prompt)
        return " > ".join(LETTERS[seat] for seat in self.rule.rank(query, demonstrations))


def main(argv: Sequence[str] | None = None) -> None:
    """Serves until interrupted."""
    rule = RankingRule()
    parser = command_line(str(__doc__))
    parser.add_argument("--noise", type=float, default=rule.noise, help="standard deviation (%(default)s)")
    parser.add_argument(
        "--coupling", type=float, default=rule.coupling, help="what demonstrations matter (%(default)s)"
    )
    parser.add_argument(
        "--bias", type=float, default=rule.bias, help="share that asking twice leaves (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=rule.seed, help="of the noise (%(default)s)")
    args = parser.parse_args(argv)
    try:
        server = RankerServer(RankingRule(args.noise, args.coupling, args.bias, args.seed), port=args.port)
    except (ValueError, OverflowError, OSError) as error:  # a setting, or the port
        parser.error(str(error))
    server.serve_until_interrupted()


if __name__ == "__main__":
    main()
