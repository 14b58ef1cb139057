"""How the processes of a job train together: one module per mode, and what several modes share."""
