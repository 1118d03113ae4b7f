"""Who learns: trainers on top of TRL; they see a dataset, never the objects that made it."""
