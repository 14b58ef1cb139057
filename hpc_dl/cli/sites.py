"""`sites`: the clusters that are known, and a first site file for this one."""

from __future__ import annotations

import click


@click.command()
@click.option("--describe", is_flag=True, help="print a site file for the Slurm that answers here, made from sinfo")
def sites(describe: bool) -> int:
    """List the sites, and which one is chosen here."""
    from hpc_dl.errors import UserError
    from hpc_dl.runfolder.folder import to_toml
    from hpc_dl.spec.site import load_site, site_files
    from hpc_dl.submission.choose_site import choose_site

    if describe:
        from hpc_dl.schedulers.slurm.described_site import cluster_name
        from hpc_dl.schedulers.slurm.described_site import describe as from_sinfo

        if not (cluster := cluster_name()):
            raise UserError("no Slurm answers here (scontrol show config)")
        click.echo(to_toml(from_sinfo(cluster)), nl=False)
        return 0
    chosen, _ = choose_site()
    for name, path in site_files().items():
        mark = "*" if name == chosen.name else " "
        click.echo(f"{mark} {name:<14} {load_site(path).description}  ({path})")
    if chosen.name not in site_files():
        click.echo(f"* {chosen.name:<14} {chosen.description}; hpc-dl sites --describe prints its file")
    return 0
