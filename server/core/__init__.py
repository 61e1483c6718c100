"""What everything else stands on: time, chance, logs, jobs, processes."""
