"""Controlled experiments on the scheduler and on memory limits, over the public client API.

    python -m wherry.experiments list
    python -m wherry.experiments run nice --cpu 0 --nices 0,5,10,15

``model`` says what an experiment is, ``lab`` is where it runs its containers, ``catalogue`` lists them, ``runner`` runs
them and writes their results.
"""
