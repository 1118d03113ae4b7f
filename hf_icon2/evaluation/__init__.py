"""How good a result is: pictures so far. Works on plain figures and imports no other room."""
