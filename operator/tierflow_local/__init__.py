"""Local mode: the control plane's reconcile with this machine behind it.

Deployments become processes, Services become proxies with stable ports, links are shaped, metrics are scraped
directly. Nothing here decides: `tierflow_operator` does.
"""
