"""Ways to make a preference pair of an instruction, one per module; `hf_icon2.generate_pairs` picks one by name."""
