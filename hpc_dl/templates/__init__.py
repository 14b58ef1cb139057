"""Templates: how they are found and rendered, what each may use, and what is wrong with an override."""

from hpc_dl.templates.rendering import Renderer, Shell, comment, directive, shell, template_folders

__all__ = ["Renderer", "Shell", "comment", "directive", "shell", "template_folders"]
