"""Templates: rendering and the search path, what each template may use, and what is wrong with an override."""

from hpc_dl.templates.rendering import Renderer, Shell, comment, directive, shell, template_folders

__all__ = ["Renderer", "Shell", "comment", "directive", "shell", "template_folders"]
