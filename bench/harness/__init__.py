"""Running a benchmark: tasks, models, judges, stored answers."""
