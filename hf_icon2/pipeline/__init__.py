"""The whole road as resumable stages of one output folder; on top of every room, imported by none."""
