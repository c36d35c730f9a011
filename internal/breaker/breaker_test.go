package breaker

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestBreakerOpensAndCloses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &Breaker{Limit: 3, Pause: time.Second}
		for range 5 {
			require.False(t, b.Fail(Soft, 0))
			require.False(t, b.Fail(Soft, 0))
			require.Equal(t, Yes, b.Ask())
			b.Succeed() // starts the count again
		}
		require.False(t, b.Fail(Soft, 0))
		require.False(t, b.Fail(Soft, 0))
		require.False(t, b.Open())
		require.True(t, b.Fail(Soft, 0))
		require.True(t, b.Open())
		for pause := time.Second; pause < 40*time.Second; pause *= 2 {
			require.Equal(t, No, b.Ask())
			require.Equal(t, pause, b.Remaining())
			time.Sleep(pause - 1)
			require.Equal(t, No, b.Ask())
			time.Sleep(time.Nanosecond)
			require.Zero(t, b.Remaining())
			require.Equal(t, Probe, b.Ask())
			require.Equal(t, No, b.Ask(), "one probe at a time")
			require.False(t, b.Fail(Soft, 0), "a probe that fails reopens it")
		}
		require.Equal(t, time.Minute, b.Remaining())
		require.EqualValues(t, 1, b.Opened())
		b.Succeed()
		require.Equal(t, Yes, b.Ask())
		require.True(t, b.Fail(Hard, 0), "at once")
		require.Equal(t, time.Second, b.Remaining(), "the first pause again")
		require.EqualValues(t, 2, b.Opened())
	})
}

func TestBreakerRecoversWithItsPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &Breaker{Limit: 2, Pause: time.Second}
		b.Fail(Hard, 0)
		time.Sleep(time.Second)
		require.Equal(t, Probe, b.Ask())
		b.Recover()
		require.Equal(t, Yes, b.Ask())
		require.False(t, b.Fail(Soft, 0), "it counts from none")
		require.True(t, b.Fail(Soft, 0))
		require.Equal(t, 2*time.Second, b.Remaining())
	})
}

func TestBreakerIgnoresLateFaults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &Breaker{Limit: 2, Pause: time.Second}
		require.False(t, b.Fail(Soft, 0))
		require.True(t, b.Fail(Soft, 0))
		time.Sleep(time.Second)
		require.Equal(t, Probe, b.Ask())
		require.False(t, b.Fail(Soft, 0))
		time.Sleep(time.Second)
		require.False(t, b.Fail(Hard, time.Hour), "a call from before it opened")
		require.Equal(t, No, b.Ask())
		time.Sleep(time.Second)
		require.Equal(t, Probe, b.Ask())
	})
}

func TestBreakerReplacesAnOverdueProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &Breaker{Limit: 1, Pause: time.Second}
		require.True(t, b.Fail(Soft, 0))
		time.Sleep(time.Second)
		require.Equal(t, Probe, b.Ask())
		time.Sleep(maxPause - time.Nanosecond)
		require.Equal(t, No, b.Ask())
		time.Sleep(time.Nanosecond)
		require.Equal(t, Probe, b.Ask())
		b.Abstain()
		require.Equal(t, Probe, b.Ask(), "a probe that abstains makes room for the next")
		b.Abstain()
		b.Fail(Hard, 0)
		require.Equal(t, No, b.Ask(), "and may still find out, when nobody waits for it")
		time.Sleep(time.Minute)
		require.Equal(t, Probe, b.Ask())
		b.Succeed()
		require.False(t, b.Open())
		b.Abstain()
		require.Equal(t, Yes, b.Ask())
	})
}

func TestBreakerHeedsRetryAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &Breaker{Limit: 9, Pause: time.Second}
		require.True(t, b.Fail(Hard, 20*time.Second))
		require.Equal(t, 20*time.Second, b.Remaining())
		b.Succeed()
		require.True(t, b.Fail(Hard, 1<<62))
		require.Equal(t, maxRetryAfter, b.Remaining())
		time.Sleep(maxRetryAfter)
		require.Equal(t, Probe, b.Ask())
		b.Fail(Hard, time.Second)
		time.Sleep(time.Second)
		require.Equal(t, Probe, b.Ask())
		b.Fail(Hard, 0)
		pauses, asked := b.Pauses()
		require.Equal(t, 3, pauses)
		require.Equal(t, maxRetryAfter+time.Second, asked)
	})
}

func TestBreakerJitter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pauses, asked := map[time.Duration]bool{}, map[time.Duration]bool{}
		for range 20 {
			b := &Breaker{Limit: 1, Pause: 10 * time.Second, Jitter: true}
			b.Fail(Soft, 0)
			require.InDelta(t, 10, b.Remaining().Seconds(), 5)
			pauses[b.Remaining()] = true
			b.Succeed()
			b.Fail(Hard, 20*time.Second)
			require.InDelta(t, 22.5, b.Remaining().Seconds(), 2.5)
			asked[b.Remaining()] = true
		}
		require.Greater(t, len(pauses), 10)
		require.Greater(t, len(asked), 10)
	})
}

func TestBreakerLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		never := &Breaker{Pause: time.Second}
		for range 100 {
			require.False(t, never.Fail(Hard, time.Hour))
			require.Equal(t, Yes, never.Ask())
		}
		short := &Breaker{Limit: 1, Jitter: true}
		require.True(t, short.Fail(Soft, 0))
		require.Equal(t, Probe, short.Ask(), "without a pause, there is a probe at once")
		require.Equal(t, No, short.Ask())
		long := &Breaker{Limit: 1, Pause: time.Hour}
		for range 3 {
			long.Fail(Soft, 0)
			require.Equal(t, time.Hour, long.Remaining(), "a first pause above the bound stays")
			time.Sleep(time.Hour)
			require.Equal(t, Probe, long.Ask())
		}
	})
}
