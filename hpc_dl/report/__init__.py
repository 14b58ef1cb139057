"""The report of jobs as a page, figures and tables, and what limits a job. It reads run folders and runs no command."""
