"""The paper's comparisons in miniature: what is measured (lab, arms), kept (cells), and said of it (page)."""
