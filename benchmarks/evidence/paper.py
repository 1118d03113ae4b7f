"""The paper's own figures (Icon², arXiv 2509.05605), to stand beside ours: LC win rate on AlpacaEval 2, Llama3-8B."""

TABLE_1 = {
    "before": 5.59,
    "sampling-ranking 3H": 16.52,
    "self-rewarding 3H": 16.02,
    "self-refine 3H": 18.38,
    "direct-prompting General + 3H": 5.90,
    "icon2-independent General": 16.07,
    "icon2-independent 3H": 18.63,
    "icon2-independent General + 3H": 23.22,
}
TABLE_3 = {  # source -> without and with the filter
    "self-synthesised": (17.1, 18.0),
    "Tulu-2": (15.7, 16.8),
    "UltraFeedback": (12.8, 13.9),
    "self-instruct": (11.1, 11.6),
}
TABLE_4 = {  # GPU hours for responses and for preferences, dollars
    "sampling-ranking": (123.8, 7.2, 269.9),
    "self-rewarding": (123.8, 15.6, 287.2),
    "self-refine": (75.4, 26.3, 209.5),
    "icon2-independent": (61.6, 10.8, 149.1),
}
GAMMA_POSITIVE = {0.01: 17.435, 0.03: 17.483, 0.05: 17.511, 0.1: 17.624, 0.3: 17.021, 0.5: 16.742}
GAMMA_NEGATIVE = {  # mean reward of the rejected side, share of pairs that are right
    0.01: (17.229, 0.872),
    0.03: (17.188, 0.898),
    0.05: (17.162, 0.935),
    0.1: (16.213, 0.948),
    0.3: (15.210, 0.992),
    0.5: (14.445, 0.998),
}
