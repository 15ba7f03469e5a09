"""What the adapters of far providers share: HTTP, event streams, failures, lists of models.

No plugin itself: it lies beside the families, where nothing is looked for.
"""
