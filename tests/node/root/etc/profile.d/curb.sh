# For a person at the console: what /curb/job gives the tests.
. /curb/settings
PATH=$PATH:/var/cache/curb-tests/containerd-${containerds%% *}/usr/bin:/curb/bin
