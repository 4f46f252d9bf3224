"""Controlled experiments on the scheduler and on memory limits, over the public client API.

    python -m wherry.experiments list
    python -m wherry.experiments run nice --cpu 0 --nices 0,5,10,15

From a program, without the extra unless a report is wanted:

    from wherry import Client
    from wherry.experiments import report, runner
    from wherry.experiments.catalogue import EXPERIMENTS
    from wherry.experiments.model import Settings

    settings = Settings(rootfs="/srv/rootfs", seconds=5, nices=(0, 10))
    runner.check([EXPERIMENTS["nice"]], settings)
    result = runner.run(Client(), EXPERIMENTS["nice"], settings)
    print(result.conclusion.tables[0].rows, result.data["windows"])
    report.write([result], "out")

``model`` says what an experiment is and what comes of it, ``lab`` is where it runs its containers, ``catalogue`` lists
them, ``runner`` runs them. To write one of your own, begin with ``nice``.
"""
