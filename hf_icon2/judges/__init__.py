"""Who decides between answers: reward models; imports no other room."""
