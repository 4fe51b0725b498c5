"""Networks from elsewhere: describing, trying, loading and calling a network that another library made.

A network of another library becomes a bundle, or stands in for one, in five steps, a module each:

1. `kinds` finds the kind of a path. A kind (`network_kind.NetworkKind`) reads what the files state, without running
   them, as values with their origins (`network_kind.NetworkReading`).
2. `completion` joins that with the user's options, and names the option for each value that is missing.
3. `trial` runs a picture of 512 pixels through the network. What the network does decides: axes, channels, stride,
   pixels without a score, activation, fixed batches.
4. `foreign_bundle` writes the result as `networks.foreign` of a `bundle.json` (`foreign_spec.ForeignSpec`), with the
   trial beside it, and `measurement` measures memory, margin and precision in a process of its own.
5. `loading` checks the files' hashes, has the kind load them, and puts `adapter.Adapted` around the network: from then
   on it is called like every backbone.

To add a kind, write one module with one class that fits `NetworkKind`, add an instance to `kinds.KINDS`, and add a
maker of a small network to the contract suite in `tests/models/foreign/test_kinds.py`: every test there then runs for
the kind. `load` may return a module, or any callable from patches to tensors (an inference session, for example);
nothing else has to know about the kind. What shapes, axes, types and outputs need is done in `adapter`, once for all.
"""
