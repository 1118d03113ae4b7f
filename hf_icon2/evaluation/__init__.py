"""How good a result is: win rates, length control, arena scores, pictures. Functions of plain figures."""
