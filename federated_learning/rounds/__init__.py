"""Rounds of federated training at the coordinator and at a hospital, without a network.

Flower carries messages and proves who sends them. What is executed is the code installed on each machine: neither side
runs the application bundle that Flower distributes, so neither can be made to execute what another sends.
"""
