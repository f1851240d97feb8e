package toy_test

import (
	"os"
	"testing"

	"strata/backend/backendtest"
	"strata/backend/toy"
)

func TestMain(m *testing.M) { os.Exit(backendtest.Main(m)) }

func TestConformance(t *testing.T) { backendtest.EachGround(t, toy.Driver(), backendtest.Run) }

func TestCrash(t *testing.T) { backendtest.EachGround(t, toy.Driver(), backendtest.Crash) }
