// Package e2e holds tests of Strata under real Docker daemons: see package engine for what they
// run on. `scripts/test e2e` runs them; `go test ./test/e2e` alone skips them all, since they take
// minutes, need root and fill a cache the first time, unless STRATA_E2E=1 is set.
//
// STRATA_E2E_DRIVER names another storage driver of dockerd, such as overlay2, to run the same
// scenarios with. They hold for that one too, so a failure tells about the driver, not the test.
//
// STRATA_E2E_FIXTURES names the directory of the images and plugins that the tests share. It is filled if it is
// missing, and used as it is if not: what cannot be made where a test runs, as in the guest of scripts/vm, can be made
// before, by `-run '^TestFixtures$'`.
//
// STRATA_TEST_ZFS says that ZFS has to be there: a test that needs it fails without.
package e2e
