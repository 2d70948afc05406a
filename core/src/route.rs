//! Which shard counts a user.
//!
//! Responsible for one stable function from a user to a repartition partition. Must never change: workers of
//! different versions run side by side during a rolling update, and a user counted in two shards is counted wrongly.

use crate::ids::Shard;

/// The shard of `shards` that counts `user`: XXH3-64 of its bytes, modulo the number of shards.
///
/// `shards` is at least 1; the configuration sees to that.
pub fn shard_of(user: &str, shards: u32) -> Shard {
    let hash = xxhash_rust::xxh3::xxh3_64(user.as_bytes());
    Shard(u32::try_from(hash % u64::from(shards.max(1))).expect("a remainder of a u32 fits a u32"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_route_of_a_user_is_fixed_for_ever() {
        let routes: Vec<u32> =
            ["", "user_1000", "user_1234", "Ümit"].map(|user| shard_of(user, 16).0).to_vec();
        assert_eq!(routes, GOLDEN);
    }

    const GOLDEN: [u32; 4] = [2, 4, 15, 15];

    #[test]
    fn a_thousand_users_spread_over_all_shards() {
        let mut load = [0_u32; 16];
        (1000..2000).for_each(|n| load[shard_of(&format!("user_{n}"), 16).0 as usize] += 1);
        assert!(load.iter().all(|users| (30..110).contains(users)), "{load:?}");
    }
}
